// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"

	"github.com/konsil-health/konsil/internal/foundation/config"
)

// configFlags are the flags of every subcommand that reads a configuration.
type configFlags struct {
	Config string   `short:"c" type:"path" placeholder:"FILE" help:"Configuration file (YAML). Keys: docs/configuration.md."`
	Set    []string `short:"s" sep:"none" placeholder:"KEY=VALUE" help:"Set one key, for example --set policy=open. Wins over file and environment."`
}

func (f configFlags) load() (*config.Config, error) {
	return config.Load(config.Source{File: f.Config, Flags: f.Set})
}

// checkCommand is konsil check-config.
type checkCommand struct {
	configFlags
	Document bool `help:"Print all keys as docs/configuration.md instead."`
}

// Run says nothing wrong was found, or lists every mistake with its key and line.
func (c *checkCommand) Run() error {
	if c.Document {
		_, err := os.Stdout.Write(config.Markdown())
		return err
	}
	checked, err := c.load()
	if err != nil {
		return err
	}
	for _, name := range checked.Ignored {
		fmt.Fprintf(os.Stderr, "warning: the variable %s is no key and is ignored\n", name)
	}
	fmt.Printf("ok: policy %s, environment %s, roles %v, %d tenants, data in %s\n",
		checked.Policy, checked.Environment, checked.Roles, len(checked.Tenants), checked.Data)
	return nil
}
