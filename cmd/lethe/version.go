package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"lethe/pipeline/archive"
)

// Set by the linker, see the Makefile.
var (
	version = "dev"
	commit  = ""
)

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print Lethe's version, commit and format version",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			c := commit
			if c == "" {
				c = "unknown"
				if info, ok := debug.ReadBuildInfo(); ok {
					for _, s := range info.Settings {
						if s.Key == "vcs.revision" {
							c = s.Value
						}
					}
				}
			}
			if a.term.json {
				return a.term.JSON(map[string]any{"version": version, "commit": c, "format": archive.Version, "go": runtime.Version()})
			}
			return a.term.Print("lethe %s (commit %s, format %d, %s %s/%s)\n", version, c, archive.Version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
		},
	}
}

func (a *app) completionCommand() *cobra.Command {
	return &cobra.Command{
		Use:       "completion {bash|zsh|fish|powershell}",
		Short:     "Print a shell completion script",
		Example:   "  lethe completion bash > /etc/bash_completion.d/lethe",
		Args:      cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs),
		ValidArgs: []string{"bash", "zsh", "fish", "powershell"},
		RunE: func(c *cobra.Command, args []string) error {
			root := c.Root()
			switch args[0] {
			case "bash":
				return root.GenBashCompletionV2(a.term.out, true)
			case "zsh":
				return root.GenZshCompletion(a.term.out)
			case "fish":
				return root.GenFishCompletion(a.term.out, true)
			}
			return root.GenPowerShellCompletionWithDesc(a.term.out)
		},
	}
}

func (a *app) manCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "man DIR",
		Short:   "Write the manual pages into a directory",
		Example: "  lethe man /usr/local/share/man/man1",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			header := &doc.GenManHeader{Title: "LETHE", Section: "1", Source: "lethe " + version, Manual: "Lethe"}
			if err := doc.GenManTree(c.Root(), header, args[0]); err != nil {
				return fmt.Errorf("write the manual pages into %s: %w", args[0], err)
			}
			return nil
		},
	}
}
