package scrub

import (
	"os"
	"testing"

	"lethe/pipeline/pgtemp/pgtest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Run(m)) }
