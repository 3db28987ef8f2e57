// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"errors"
	"io"
	"sync"
	"time"

	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// A request of another server is signed over its body, so that has to be read before anybody knows who sent it: up to 24 MiB each. Their sum is
// bounded, so that strangers with many connections cannot fill the memory, and so is what one address has of it, so that one cannot keep the others out.
// Only bytes that have arrived count: who merely announces a large body takes no place. One more is asked to come again; servers do.

const (
	// maxUnproven is how many bytes of bodies from unknown callers are held at once.
	maxUnproven = 128 << 20
	// unprovenShare is which part of it one address may have: more than the largest body of one request.
	unprovenShare = 4
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

	mu   sync.Mutex
	held int64
	by   map[string]int64 // of each address that has some, as rate limits count it
}

// add counts n bytes more or fewer of an address; false when there is no room for them.
func (u *unproven) add(address string, n int64) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if n > 0 && (u.held+n > u.most || u.by[address]+n > u.most/unprovenShare) {
		return false
	}
	u.held += n
	if u.by[address] += n; u.by[address] == 0 {
		delete(u.by, address)
	}
	return true
}

// unprovenBody counts what is read of a request's body.
type unprovenBody struct {
	io.ReadCloser
	sum     *unproven
	address string
	held    int64
}

// watch counts a request's body from now on, until the returned function is called: then its caller is known, or refused.
func (u *unproven) watch(r *Request) (proven func()) {
	body := &unprovenBody{ReadCloser: r.HTTP.Body, sum: u, address: rateKey(r.Address)}
	r.HTTP.Body = body
	return func() {
		u.add(body.address, -body.held)
		body.held = 0
	}
}

// Read implements io.Reader.
func (b *unprovenBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if n == 0 {
		return n, err
	}
	if !b.sum.add(b.address, int64(n)) {
		return 0, errCrowded
	}
	b.held += int64(n)
	return n, err
}
