// SPDX-License-Identifier: Apache-2.0

//go:build goolm

package testdriver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/go-json-experiment/json"
	"maunium.net/go/mautrix"
)

// maxBody bounds what the suite may send: files of tests.
const maxBody = 32 << 20

// binary is an answer that is not JSON.
type binary struct {
	kind string
	data []byte
}

// answer writes a result or an error of the interface.
func answer(w http.ResponseWriter, status int, v any, err error) {
	if err != nil {
		refuse(w, err)
		return
	}
	if file, ok := v.(binary); ok {
		w.Header().Set("Content-Type", file.kind)
		_, _ = w.Write(file.data) // the suite is gone if this fails
		return
	}
	if v == nil {
		w.WriteHeader(status)
		return
	}
	send(w, status, v)
}

func send(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.MarshalWrite(w, v, json.Deterministic(true)) // as above
}

// refuse hands on what the homeserver or the directory has said.
func refuse(w http.ResponseWriter, err error) {
	f := &failure{status: http.StatusInternalServerError, code: "INTERNAL", message: err.Error()}
	var matrix mautrix.HTTPError
	switch {
	case errors.As(err, &f):
	case errors.As(err, &matrix) && matrix.Response != nil:
		f.status = matrix.Response.StatusCode
		if matrix.RespError != nil {
			f.code = matrix.RespError.ErrCode
		}
	}
	if f.status == http.StatusUnauthorized {
		send(w, f.status, map[string]any{"flows": []any{map[string]any{"stages": []string{"basicAuth"}}}})
		return
	}
	send(w, f.status, map[string]any{"errorCode": f.code, "errorMessage": f.message})
}

// body reads a JSON body; an empty one leaves the value as it is.
func body(r *http.Request, into any) error {
	raw, err := io.ReadAll(io.LimitReader(r.Body, maxBody))
	if err == nil && len(raw) > 0 {
		err = json.Unmarshal(raw, into)
	}
	if err != nil {
		return fail(http.StatusBadRequest, "BAD_REQUEST", "the body cannot be read: %v", err)
	}
	return nil
}

// fetch asks the directory or another JSON interface. Its refusals become the interface's.
func (d *Driver) fetch(ctx context.Context, method, address string, header map[string]string, in io.Reader, into any) error {
	req, err := http.NewRequestWithContext(ctx, method, address, in)
	if err != nil {
		return err
	}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	res, err := d.http.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, maxBody))
	if err != nil {
		return err
	}
	if res.StatusCode >= 300 {
		return fail(res.StatusCode, "DIRECTORY", "%s %s: %.1000s", method, req.URL.Path, text)
	}
	if into == nil || len(text) == 0 {
		return nil
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("%s %s: %w", method, req.URL.Path, err)
	}
	return nil
}
