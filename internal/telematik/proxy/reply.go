// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"bytes"
	"io"
	"net/http"
	"strconv"

	"github.com/go-json-experiment/json"

	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// foreign is an answer of the homeserver to a question of the proxy's own, which its client gets as it is.
type foreign struct {
	status int
	body   []byte
}

// Error names the status alone: the text is the homeserver's.
func (f *foreign) Error() string { return "the homeserver answered " + strconv.Itoa(f.status) }

// writeError answers with an error; how long to wait stands in the header too (client-server API, "Rate limiting").
func writeError(w http.ResponseWriter, e *mxerror.Error) {
	if ms, ok := e.Extra["retry_after_ms"].(int64); ok {
		w.Header().Set("Retry-After", strconv.FormatInt((ms+999)/1000, 10))
	}
	writeJSON(w, e.Status, e.Body())
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	text, err := json.Marshal(v, json.Deterministic(true))
	if err != nil {
		status, text = http.StatusInternalServerError, []byte(`{"errcode":"M_UNKNOWN","error":"Internal error"}`)
	}
	writeRaw(w, status, text)
}

func writeRaw(w http.ResponseWriter, status int, text []byte) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Access-Control-Allow-Origin", "*")
	w.WriteHeader(status)
	_, _ = w.Write(text) // the caller is gone if this fails
}

// rewrite replaces the JSON object of an answer by what change makes of it. An answer that is no such object stays as it is.
func rewrite(res *http.Response, change func(object map[string]any)) error {
	text, err := io.ReadAll(io.LimitReader(res.Body, maxRead))
	if err != nil {
		return err
	}
	var object map[string]any
	if res.StatusCode == http.StatusOK && json.Unmarshal(text, &object) == nil {
		change(object)
		if text, err = json.Marshal(object, json.Deterministic(true)); err != nil {
			return err
		}
	}
	rest := res.Body
	res.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(text), rest), rest}
	res.Header.Del("Content-Length")
	res.ContentLength = -1
	return nil
}
