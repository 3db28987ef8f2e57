// SPDX-License-Identifier: Apache-2.0

// Command konsil is the whole TI-Messenger network in one program. Each subcommand is one small file; what it does lives in internal/.
package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"
)

// cli is the command line. Kong reads the tags.
type cli struct {
	Serve       serveCommand     `cmd:"" help:"Run one node with the roles that its configuration names."`
	Proxy       proxyCommand     `cmd:"" help:"Put the rules of the TI-Messenger in front of another homeserver (docs/proxy.md)."`
	CheckConfig checkCommand     `cmd:"" help:"Say what is wrong with a configuration, or nothing."`
	Doctor      doctorCommand    `cmd:"" help:"Look whether the services of the network are there and in order (--ti)."`
	Demo        demoCommand      `cmd:"" help:"Run a small national network on this machine: two providers, their institutions, the central services."`
	Card        cardCommand      `cmd:"" help:"Issue and show demonstration cards (SMC-B, eHBA, eGK)."`
	Directory   directoryCommand `cmd:"" help:"Import and export the directory's resources (NDJSON)."`
	Admin       adminCommand     `cmd:"" help:"Look after the data of a configuration: rooms."`
	Bench       benchCommand     `cmd:"" help:"Measure this program beside the limits of this machine."`
	Version     versionCommand   `cmd:"" help:"Print version and build."`
}

func main() {
	// A second signal ends the process at once: the stop is not registered any more then.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)

	command := kong.Parse(&cli{},
		kong.Name("konsil"),
		kong.Description("Secure messaging for German healthcare: one program, every organisation. Not approved by gematik, not for real patients yet."),
		kong.UsageOnError(),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
		kong.BindTo(ctx, (*context.Context)(nil)),
		kong.BindTo(os.Stdout, (*io.Writer)(nil)))
	command.FatalIfErrorf(command.Run())
}
