// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"

	"github.com/konsil-health/konsil/internal/demo"
	"github.com/konsil-health/konsil/internal/foundation/observe"
)

// demoCommand is konsil demo: a small national network in one process.
type demoCommand struct {
	Folder    string `type:"path" placeholder:"DIR" help:"Where everything is kept. Default: konsil-demo in the user's state directory."`
	Port      int    `default:"8480" help:"Port on 127.0.0.1 for every client. A busy one is named and the next free one taken."`
	AgentPort int    `default:"8770" help:"Port on 127.0.0.1 of the card service, likewise."`
	Fresh     bool   `help:"Empty the folder first."`
	Entries   int    `default:"2000" help:"Invented directory entries beside the cast."`
	Tour      bool   `help:"Walk through a whole consultation in a network of its own, print each step, and stop."`
	Verbose   bool   `short:"v" help:"Show the log of all parts."`
}

// demoMark is a file by which a folder is known to be the demo's own, so that --fresh never empties anything else.
const demoMark = "konsil-demo"

// Run runs the network until the context ends.
func (c *demoCommand) Run(ctx context.Context) error {
	var log *slog.Logger
	if c.Verbose {
		log = observe.NewLogger(observe.LogOptions{Output: os.Stderr, Level: slog.LevelInfo})
	}
	if c.Tour {
		return walkTour(ctx, log)
	}
	folder, err := c.folder()
	if err != nil {
		return err
	}
	fmt.Printf("Starting the demonstration network in %s\n", folder)
	n, err := demo.Start(ctx, demo.Options{Folder: folder, Port: c.Port, AgentPort: c.AgentPort, Entries: c.Entries, Log: log, Steps: os.Stdout})
	if ctx.Err() != nil {
		fmt.Printf("\nStopped before everything was there; the next start goes on, --fresh begins anew.\n")
		if err == nil {
			err = n.Close()
		}
		if errors.Is(err, context.Canceled) {
			err = nil
		}
	}
	if err != nil || ctx.Err() != nil {
		return err
	}
	if want := fmt.Sprintf("http://127.0.0.1:%d", c.Port); n.URL != want && c.Port != 0 {
		fmt.Printf("Port %d is in use; clients use %s instead.\n", c.Port, n.URL)
	}
	n.Screen(os.Stdout, folder)
	<-ctx.Done()
	fmt.Printf("\nStopping. Everything stays in %s; the next start goes on there, --fresh begins anew.\n", folder)
	return n.Close()
}

// folder finds, empties if asked, and marks the demo's folder.
func (c *demoCommand) folder() (string, error) {
	folder := c.Folder
	if folder == "" {
		state, err := stateFolder()
		if err != nil {
			return "", err
		}
		folder = filepath.Join(state, "konsil-demo")
	}
	mark := filepath.Join(folder, demoMark)
	_, err := os.Stat(mark)
	ours := err == nil
	if c.Fresh && ours {
		if err := os.RemoveAll(folder); err != nil {
			return "", err
		}
		ours = false
	}
	if !ours {
		if busy, err := occupied(folder); err != nil || busy {
			return "", errors.Join(err, fmt.Errorf("%s is not empty and not a demo's folder; choose another with --folder", folder))
		}
	}
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return "", err
	}
	return folder, os.WriteFile(mark, []byte("This folder belongs to konsil demo; --fresh empties it.\n"), 0o600)
}

func occupied(folder string) (bool, error) {
	f, err := os.Open(folder)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	_, err = f.Readdirnames(1)
	if errors.Is(err, io.EOF) {
		return false, nil
	}
	return err == nil, err
}

// stateFolder is where programs of the user keep their state.
func stateFolder() (string, error) {
	if dir := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return dir, nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", err
	}
	if runtime.GOOS == "darwin" {
		return filepath.Join(home, "Library", "Application Support"), nil
	}
	return filepath.Join(home, ".local", "state"), nil
}
