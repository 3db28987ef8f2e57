// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"errors"
	"io"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// A request of another server is signed over its body, so that has to be read before anybody knows who sent it: up to 24 MiB each. Their sum is
// bounded, so that strangers with many connections cannot fill the memory. Only bytes that have arrived count: who merely announces a large body takes
// no place. One more is asked to come again; servers do.

const (
	// maxUnproven is how many bytes of bodies from unknown callers are held at once.
	maxUnproven = 128 << 20
	// crowdedRetry is when somebody for whom there was no room is asked to come again.
	crowdedRetry = time.Second
)

var errCrowded = errors.New("too many bodies of unknown callers")

// crowded is errCrowded for the caller.
func crowded() error {
	return mxerror.LimitExceeded.With("Too many large requests at once.").WithExtra("retry_after_ms", crowdedRetry.Milliseconds())
}

// unproven counts the bytes of bodies whose senders have not been recognised yet. It is safe for concurrent use.
type unproven struct {
	most int64
	held atomic.Int64
}

// unprovenBody counts what is read of a request's body.
type unprovenBody struct {
	io.ReadCloser
	sum  *unproven
	held int64
}

// watch counts a request's body from now on, until the returned function is called: then its caller is known, or refused.
func (u *unproven) watch(r *http.Request) (proven func()) {
	body := &unprovenBody{ReadCloser: r.Body, sum: u}
	r.Body = body
	return func() {
		u.held.Add(-body.held)
		body.held = 0
	}
}

// Read implements io.Reader.
func (b *unprovenBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if b.sum.held.Add(int64(n)) > b.sum.most {
		b.sum.held.Add(-int64(n))
		return 0, errCrowded
	}
	b.held += int64(n)
	return n, err
}
