package pipeline_test

import (
	"os"
	"testing"

	"lethe/pipeline/pgtemp/pgtest"
)

func TestMain(m *testing.M) {
	if os.Getenv(purgeProcess) != "" {
		os.Exit(purgeAsOrdered(os.Stdin, os.Stderr))
	}
	os.Exit(pgtest.Run(m))
}
