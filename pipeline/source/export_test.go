package source

import "context"

// Meanwhile lets a test change the world at the steps of the protocol: "listed", "locked", "exported".
func Meanwhile(c *Config, f func(attempt int, at string)) {
	c.between = func(_ context.Context, attempt int, at step) {
		f(attempt, map[step]string{listedFirst: "listed", lockedAll: "locked", exported: "exported"}[at])
	}
}
