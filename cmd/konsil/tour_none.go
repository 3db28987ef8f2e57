// SPDX-License-Identifier: Apache-2.0

//go:build !goolm

package main

import (
	"context"
	"errors"
	"log/slog"
)

// walkTour says why this binary has no tour (docs/decisions/0005).
func walkTour(context.Context, *slog.Logger) error {
	return errors.New("this binary was built without the tour's clients; build with `make build`, or with `go build -tags goolm`")
}
