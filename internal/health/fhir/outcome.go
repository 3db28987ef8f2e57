// SPDX-License-Identifier: Apache-2.0

package fhir

import (
	"fmt"
	"net/url"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// Issue codes (FHIR code system issue-type).
const (
	CodeInvalid      = "invalid"
	CodeStructure    = "structure"
	CodeRequired     = "required"
	CodeValue        = "value"
	CodeNotSupported = "not-supported"
	CodeNotFound     = "not-found"
	CodeConflict     = "conflict"
	CodeForbidden    = "forbidden"
	CodeLogin        = "login"
	CodeBusinessRule = "business-rule"
	CodeTooCostly    = "too-costly"
	CodeException    = "exception"
	CodeCodeInvalid  = "code-invalid"
	CodeInvariant    = "invariant"
	CodeThrottled    = "throttled"
)

// Issue is one thing that is wrong with a request or a resource.
type Issue struct {
	Severity    string   `json:"severity"`
	Code        string   `json:"code"`
	Diagnostics string   `json:"diagnostics,omitempty"`
	Expression  []string `json:"expression,omitempty"` // where in the resource
}

// Error is a refusal with its HTTP status, answered as OperationOutcome.
type Error struct {
	Status int
	Issues []Issue
}

// Refuse makes an error of one issue.
func Refuse(status int, code, format string, a ...any) *Error {
	return &Error{Status: status, Issues: []Issue{{Severity: "error", Code: code, Diagnostics: fmt.Sprintf(format, a...)}}}
}

// Error names the issues.
func (e *Error) Error() string {
	var all []string
	for _, i := range e.Issues {
		all = append(all, i.Code+": "+i.Diagnostics)
	}
	return "fhir: " + strings.Join(all, "; ")
}

// Outcome is the OperationOutcome of issues.
type Outcome struct {
	ResourceType string  `json:"resourceType"`
	Issue        []Issue `json:"issue"`
}

// Outcome returns the error as a resource.
func (e *Error) Outcome() Outcome {
	return Outcome{ResourceType: "OperationOutcome", Issue: e.Issues}
}

// Bundle is the answer to a search.
type Bundle struct {
	ResourceType string  `json:"resourceType"`
	ID           string  `json:"id,omitempty"`
	Type         string  `json:"type"`
	Total        int     `json:"total"`
	TotalExt     any     `json:"_total,omitempty"`
	Link         []Link  `json:"link,omitempty"`
	Entry        []Entry `json:"entry,omitempty"`
}

// Link is a relation of a bundle: self, next, previous.
type Link struct {
	Relation string `json:"relation"`
	URL      string `json:"url"`
}

// Entry is one result. Mode is match, or include for resources that come along.
type Entry struct {
	FullURL  string         `json:"fullUrl,omitempty"`
	Resource jsontext.Value `json:"resource"`
	Search   *EntrySearch   `json:"search,omitempty"`
}

// EntrySearch says why an entry is in the bundle.
type EntrySearch struct {
	Mode string `json:"mode"`
}

// NewSearchset returns an empty search result.
func NewSearchset() *Bundle { return &Bundle{ResourceType: "Bundle", Type: "searchset"} }

// Add appends a resource found under base.
func (b *Bundle) Add(base string, r *Resource, mode string) {
	b.Entry = append(b.Entry, Entry{FullURL: base + "/" + r.Reference(), Resource: r.JSON(), Search: &EntrySearch{Mode: mode}})
}

// MatrixURI writes a Matrix user id as endpoints carry it: "matrix:u/localpart:domain" (Matrix appendices, URI scheme). The id is @localpart:domain.
func MatrixURI(user string) string {
	localpart, domain, _ := strings.Cut(strings.TrimPrefix(user, "@"), ":")
	return "matrix:u/" + url.PathEscape(localpart) + ":" + domain
}

// MatrixUser reads the address of an endpoint: a Matrix URI, or the plain user id that older entries carry. False where it is neither.
func MatrixUser(address string) (string, bool) {
	rest, ok := strings.CutPrefix(address, "matrix:u/")
	if !ok {
		rest, ok = strings.CutPrefix(address, "matrix:user/")
	}
	if ok {
		plain, err := url.PathUnescape(rest)
		if err != nil {
			return "", false
		}
		rest = plain
	} else if rest, ok = strings.CutPrefix(address, "@"); !ok {
		return "", false
	}
	localpart, domain, ok := strings.Cut(rest, ":")
	if !ok || localpart == "" || domain == "" || strings.ContainsAny(rest, "/?# \t\r\n\x00") || len(rest) > 254 {
		return "", false
	}
	return "@" + rest, true
}
