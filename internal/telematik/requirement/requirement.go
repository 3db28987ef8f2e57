// SPDX-License-Identifier: Apache-2.0

package requirement

import (
	"fmt"
	"strings"
)

// State says what of a requirement holds.
type State string

// The states, as they stand in docs/requirements.md.
const (
	// Met: the named tests show it.
	Met State = "met"
	// Partly: the named tests show a part of it; Note says what is missing.
	Partly State = "partly"
	// Open: nothing of it is there yet.
	Open State = "open"
	// Not: it binds somebody else, or no part that Konsil has.
	Not State = "not applicable"
	// Unread: its text has not been seen, only its number and subject.
	Unread State = "source unread"
)

// Line is one requirement.
type Line struct {
	// ID is gematik's number; of several versions of a requirement the newest known.
	ID string
	// Says is what it asks for, in one sentence of ours.
	Says  string
	State State
	// Tests show it: "folder below internal: TestName", each with the ID in its comment.
	Tests []string
	// Note says what is missing or why it does not apply.
	Note string
}

// Markdown writes docs/requirements.md.
func Markdown() []byte {
	var b strings.Builder
	b.WriteString(`# Requirements

<!-- Written from internal/telematik/requirement/table.go by "make docs". Do not edit. -->

gematik's requirements for the TI-Messenger (Basis 1.2, Pro 1.1, ePA 1.2), as far as their numbers and subjects are known here; the wording is ours. The
normative texts themselves could mostly not be read. A test fails when a line names a test that does not exist or does not carry the number.

`)
	count := map[State]int{}
	for _, l := range table {
		count[l.State]++
	}
	fmt.Fprintf(&b, "%d requirements: %d met, %d partly, %d open, %d not applicable, %d with their source unread.\n\n| requirement | asks | state | shown by | missing |\n|---|---|---|---|---|\n",
		len(table), count[Met], count[Partly], count[Open], count[Not], count[Unread])
	for _, l := range table {
		tests := make([]string, len(l.Tests))
		for i, t := range l.Tests {
			tests[i] = "`" + t + "`"
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", l.ID, l.Says, l.State, strings.Join(tests, "<br>"), l.Note)
	}
	return []byte(b.String())
}
