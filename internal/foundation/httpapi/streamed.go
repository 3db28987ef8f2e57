// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"fmt"
	"net/http"
	"time"

	"github.com/go-json-experiment/json"
)

// writeValue encodes an answer into the connection. What cannot be encoded is found when the status has left.
func (e encoded) writeValue(w http.ResponseWriter) (status int, n int64, err error) {
	out := &countingWriter{ResponseWriter: w, status: e.status}
	w.WriteHeader(e.status)
	if err := json.MarshalWrite(out, e.value, encodeOptions); err != nil && out.err == nil {
		return e.status, out.n, fmt.Errorf("encode answer: %w", err)
	}
	return e.status, out.n, nil // a client that went away needs no answer
}

// patient gives the client time for each piece of an answer anew.
type patient struct {
	http.ResponseWriter
	departs *http.ResponseController
	time    func(bytes int) time.Time
}

func (p *patient) Write(b []byte) (int, error) {
	_ = p.departs.SetWriteDeadline(p.time(len(b)))
	return p.ResponseWriter.Write(b)
}
