// SPDX-License-Identifier: Apache-2.0

package mxerror

import (
	"errors"
	"fmt"
	"testing"
)

func TestErrors(t *testing.T) {
	t.Parallel()
	wrapped := fmt.Errorf("room: %w", NotFound.With("room %s", "!x").WithExtra("k", 1))
	if !errors.Is(wrapped, NotFound) || errors.Is(wrapped, Forbidden) {
		t.Error("errors.Is does not go by code")
	}
	e := From(wrapped)
	if e == nil || e.Status != 404 || e.Message != "room !x" || e.Extra["k"] != 1 {
		t.Errorf("%+v", e)
	}
	if NotFound.Extra != nil || NotFound.Message == e.Message {
		t.Error("the constant changed")
	}
	b := e.WithExtra("errcode", "no").Body()
	if b["errcode"] != "M_NOT_FOUND" || b["error"] != "room !x" || b["k"] != 1 {
		t.Error(b)
	}
	if From(errors.New("x")) != nil || From(nil) != nil {
		t.Error("found an error that is none of ours")
	}
	if MethodNotAllowed.Status != 405 || !errors.Is(MethodNotAllowed, Unrecognized) {
		t.Error("405 carries M_UNRECOGNIZED as well")
	}
}
