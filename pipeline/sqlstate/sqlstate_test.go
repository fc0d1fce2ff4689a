package sqlstate

import (
	"errors"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
)

func TestMayQuote(t *testing.T) {
	for code, want := range map[string]bool{
		"22P02": true, "22P05": true, "23505": true, "P0001": true, "P0002": true, "IX123": true, "ZZ999": true,
		"": true, "1": true, "223": true, // no code that PostgreSQL has
		"42P01": false, "42501": false, "40001": false, "53100": false, "57014": false, "08006": false, "HV000": false, "F0000": false, "XX001": false,
	} {
		if MayQuote(code) != want {
			t.Errorf("MayQuote(%q) = %v", code, !want)
		}
	}
}

func TestOf(t *testing.T) {
	pg := fmt.Errorf("copy: %w", &pgconn.PgError{Code: UndefinedTable})
	if got := Of(pg); got != "42P01" {
		t.Errorf("Of a server's error is %q", got)
	}
	if got := Of(errors.New("42P01")) + Of(nil); got != "" {
		t.Errorf("Of others is %q", got)
	}
}
