// SPDX-License-Identifier: Apache-2.0

//go:build goolm

package main

import (
	"context"
	"log/slog"
	"os"

	"github.com/konsil-health/konsil/internal/tour"
)

// walkTour runs the tour in a folder of its own that is removed afterwards.
func walkTour(ctx context.Context, log *slog.Logger) error {
	folder, err := os.MkdirTemp("", "konsil-tour-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	return tour.Run(ctx, tour.Options{Folder: folder, Out: os.Stdout, Log: log})
}
