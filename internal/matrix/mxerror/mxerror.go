// SPDX-License-Identifier: Apache-2.0

package mxerror

import (
	"errors"
	"fmt"
	"maps"
)

// Error is one standard error response. Two errors are equal for errors.Is when their codes are, so that a
// caller can ask for mxerror.NotFound whatever the message says. Values are immutable: With and WithExtra copy.
type Error struct {
	// Status is the HTTP status that goes with the code.
	Status int
	// Code is the errcode, e.g. M_FORBIDDEN.
	Code string
	// Message is for people. It may reach clients of other organisations and holds no secrets.
	Message string
	// Extra are further top-level members of the response body, e.g. retry_after_ms, soft_logout, room_version.
	Extra map[string]any
}

// New makes an error of a code that this package has no value for.
func New(status int, code, msg string) *Error {
	return &Error{Status: status, Code: code, Message: msg}
}

// Error implements error.
func (e *Error) Error() string { return e.Code + ": " + e.Message }

// Is reports whether target is an *Error with the same code.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code
}

// With returns a copy with another message, formatted as by fmt.Sprintf.
func (e *Error) With(format string, a ...any) *Error {
	c := *e
	if len(a) == 0 {
		c.Message = format
	} else {
		c.Message = fmt.Sprintf(format, a...)
	}
	return &c
}

// WithExtra returns a copy whose response body has one more member.
func (e *Error) WithExtra(k string, v any) *Error {
	c := *e
	c.Extra = maps.Clone(e.Extra)
	if c.Extra == nil {
		c.Extra = make(map[string]any, 1)
	}
	c.Extra[k] = v
	return &c
}

// Body is the JSON object of the response: errcode, error and the extra members.
func (e *Error) Body() map[string]any {
	b := make(map[string]any, len(e.Extra)+2)
	maps.Copy(b, e.Extra)
	b["errcode"], b["error"] = e.Code, e.Message
	return b
}

// From finds the first *Error in err's chain, or nil.
func From(err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	return nil
}
