// SPDX-License-Identifier: Apache-2.0

package limits

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"os"
	"slices"
	"time"
)

// Times are the quantiles of a repeated operation.
type Times struct{ P50, P99 time.Duration }

// maxSamples bounds every loop beside its duration.
const maxSamples = 100_000

// Disk appends a page to a file in the folder and flushes it, again and again.
func Disk(ctx context.Context, folder string, d time.Duration) (_ Times, err error) {
	f, err := os.CreateTemp(folder, "flush-")
	if err != nil {
		return Times{}, err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(f.Name())) }()
	page := make([]byte, 4096)
	var samples []time.Duration
	for end := time.Now().Add(d); time.Now().Before(end) && len(samples) < maxSamples && ctx.Err() == nil; {
		began := time.Now()
		if _, err := f.Write(page); err != nil {
			return Times{}, err
		}
		if err := f.Sync(); err != nil {
			return Times{}, err
		}
		samples = append(samples, time.Since(began))
	}
	return times(samples), ctx.Err()
}

// Signature is the time of one Ed25519 signature over what an event's signature covers, on one processor.
func Signature(d time.Duration) time.Duration {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err) // the system has no randomness
	}
	text := make([]byte, 600)
	n := 0
	began := time.Now()
	for time.Since(began) < d && n < maxSamples {
		ed25519.Sign(private, text)
		n++
	}
	return time.Since(began) / time.Duration(max(1, n))
}

func times(samples []time.Duration) Times {
	if len(samples) == 0 {
		return Times{}
	}
	slices.Sort(samples)
	return Times{samples[len(samples)/2], samples[len(samples)*99/100]}
}
