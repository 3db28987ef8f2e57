// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/telematik/directory"
)

// directoryCommand is konsil directory: bulk delivery of the directory's resources, in the database of a configuration.
type directoryCommand struct {
	Import directoryImportCommand `cmd:"" help:"Store FHIR resources of NDJSON files, one a line; what is there already is replaced."`
	Export directoryExportCommand `cmd:"" help:"Write all resources as NDJSON."`
}

type directoryImportCommand struct {
	configFlags
	Files []string `arg:"" type:"existingfile" help:"NDJSON files."`
}

// Run imports the files in their order.
func (c *directoryImportCommand) Run(ctx context.Context) error {
	return c.with(ctx, func(s *directory.Store) error {
		for _, name := range c.Files {
			began := time.Now()
			n, err := importFile(ctx, s, name)
			if err != nil {
				return fmt.Errorf("%s: after %d resources: %w", name, n, err)
			}
			fmt.Printf("%s: %d resources in %s\n", name, n, time.Since(began).Round(time.Millisecond))
		}
		return nil
	})
}

func importFile(ctx context.Context, s *directory.Store, name string) (int, error) {
	f, err := os.Open(name)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	return s.Import(ctx, f)
}

type directoryExportCommand struct {
	configFlags
	Output string `short:"o" type:"path" placeholder:"FILE" help:"File to write; it must not be there yet. Default: standard output."`
}

// Run exports everything.
func (c *directoryExportCommand) Run(ctx context.Context) error {
	return c.with(ctx, func(s *directory.Store) error {
		if c.Output != "" {
			f, err := os.OpenFile(c.Output, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
			if err != nil {
				return err
			}
			n, err := s.Export(ctx, f)
			if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
				fmt.Printf("%s: %d resources\n", c.Output, n)
			}
			return err
		}
		_, err := s.Export(ctx, os.Stdout)
		return err
	})
}

// with opens the store of the configuration's database.
func (c *configFlags) with(ctx context.Context, f func(*directory.Store) error) (err error) {
	checked, err := c.load()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(checked.Data, 0o700); err != nil {
		return err
	}
	db, err := database.Open(ctx, database.Options{URL: checked.Database.URL, Readers: checked.Database.Readers})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	return f(directory.NewStore(db, nil))
}
