package main

import (
	"time"

	"github.com/spf13/cobra"

	"lethe/pipeline/archive"
)

func (a *app) keygenCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "keygen {operator|signer}",
		Short: "Make a key file and print its public line",
		Long: `Makes a key file and prints its public line (RW…).

An operator key belongs on the machine that runs backups: it signs snapshots, and
reads manifests, never table data. A signer key belongs to a key holder. The age
keys that table data is encrypted to are not made here: use age-keygen, on the key
holder's machine.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return usage("lethe keygen operator --output FILE", "say which key: operator or signer")
		},
	}
	c.AddCommand(
		a.keygen("operator", "the key of the machine that runs backups", func() (string, archive.PublicKey, error) {
			k, err := archive.GenerateOperator()
			if err != nil {
				return "", archive.PublicKey{}, err
			}
			return k.Text(time.Now()), k.Public(), nil
		}),
		a.keygen("signer", "a key holder's signing key", func() (string, archive.PublicKey, error) {
			k, err := archive.GenerateSigner()
			if err != nil {
				return "", archive.PublicKey{}, err
			}
			return k.Text(time.Now()), k.Public(), nil
		}))
	return c
}

func (a *app) keygen(kind, what string, generate func() (string, archive.PublicKey, error)) *cobra.Command {
	var output, show string
	c := &cobra.Command{
		Use:   kind,
		Short: "Make " + what,
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if (output == "") == (show == "") {
				return usage("lethe keygen "+kind+" --output FILE", "give either --output FILE or --show FILE")
			}
			var public archive.PublicKey
			if show != "" {
				var err error
				if public, err = archive.ReadPublicKey(show); err != nil {
					return asUsage(err)
				}
			} else {
				text, made, err := generate()
				if err != nil {
					return err
				}
				if err := archive.WriteSecretFile(output, text); err != nil {
					return err
				}
				public = made
				a.term.Say("wrote %s, mode 0600; its public line, which others trust:", output)
			}
			if a.term.json {
				return a.term.JSON(map[string]string{"public": public.String()})
			}
			return a.term.Print("%s\n", public)
		},
	}
	c.Flags().StringVarP(&output, "output", "o", "", "write the secret to `FILE`, which must not exist")
	c.Flags().StringVar(&show, "show", "", "print the public line of the key in `FILE` again")
	return c
}
