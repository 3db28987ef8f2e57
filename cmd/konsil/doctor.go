// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/konsil-health/konsil/internal/server"
)

// doctorCommand is konsil doctor.
type doctorCommand struct {
	configFlags
	TI bool `name:"ti" required:"" help:"Walk the services of the TI that the configuration names: federation list, certificates, OCSP, directory, identity provider. Reads only."`
}

var errFound = errors.New("problems were found")

// Run prints what was found, a line each, and ends with an error when there is a problem.
func (c *doctorCommand) Run(ctx context.Context, out io.Writer) error {
	checked, err := c.load()
	if err != nil {
		return err
	}
	findings, err := server.Examine(ctx, checked)
	for _, f := range findings {
		fmt.Fprintf(out, "%-8s %-26s %s\n", f.Verdict, f.Subject, f.Text)
		if f.Advice != "" {
			fmt.Fprintf(out, "%-8s %-26s   %s\n", "", "", f.Advice)
		}
		if f.Verdict == server.Problem && err == nil {
			err = errFound
		}
	}
	return err
}
