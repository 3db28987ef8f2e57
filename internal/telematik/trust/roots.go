// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/konsil-health/konsil/internal/health/certificate"
)

const (
	// RootsInterval is how often new roots are looked for (dossier, section 3.1).
	RootsInterval = 7 * 24 * time.Hour
	rootsRetry    = time.Hour
)

// Fetch reads roots.json and learns the roots that it joins to trusted ones. Where that fails the known roots stay.
func Fetch(ctx context.Context, client *http.Client, address string, t *certificate.Trust, at time.Time) ([]*certificate.Certificate, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("roots.json: status %s", resp.Status)
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, certificate.MaxRootsSize+1))
	if err != nil {
		return nil, err
	}
	return t.Learn(text, at)
}

// Follow fetches roots.json now and then every week until ctx ends; after a failure it tries again hourly.
func Follow(ctx context.Context, client *http.Client, address string, t *certificate.Trust, log *slog.Logger) {
	for {
		wait := RootsInterval
		learned, err := Fetch(ctx, client, address, t, time.Now())
		if err != nil && ctx.Err() == nil {
			wait = rootsRetry
			log.Error("roots.json could not be read; the known roots stay", "error", err)
		}
		for _, root := range learned {
			log.Info("a new root is trusted by its cross certificate", "root", root.X509.Subject.CommonName)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}
