// SPDX-License-Identifier: Apache-2.0

package limit

// Class names what a bucket counts; each route declares one.
type Class uint8

// The classes of requests. None is not limited at all.
const (
	None       Class = iota
	Read             // cheap reads
	Sync             // long polls: one answer leads to the next request
	Write            // small changes: state, receipts, account data, keys
	Send             // messages into rooms
	Join             // joining, creating and inviting: each may ask other servers
	Login            // attempts to prove who one is
	Register         // new accounts
	Search           // directory, full-text search and other expensive reads
	Upload           // media up
	Download         // media down
	Federation       // requests of other servers
	Transact         // transactions of other servers, which carry up to 50 PDUs each
	OAuth            // registrations of OAuth 2.0 clients and their tokens
	Public           // unauthenticated facts: versions, well-known, server keys
)

// Rate is the shape of a bucket: so many per second for ever, so many at once.
type Rate struct {
	PerSecond float64
	Burst     float64
}

type classSpec struct {
	name string
	rate Rate
}

// classes holds every class's name (used in metrics and configuration) and default rate.
var classes = [...]classSpec{
	None:       {"none", Rate{}},
	Read:       {"read", Rate{50, 300}},
	Sync:       {"sync", Rate{20, 100}},
	Write:      {"write", Rate{20, 150}},
	Send:       {"send", Rate{10, 100}},
	Join:       {"join", Rate{2, 40}},
	Login:      {"login", Rate{0.5, 15}},
	Register:   {"register", Rate{0.2, 10}},
	Search:     {"search", Rate{5, 40}},
	Upload:     {"upload", Rate{2, 50}},
	Download:   {"download", Rate{30, 300}},
	Federation: {"federation", Rate{100, 500}},
	Transact:   {"transact", Rate{50, 200}},
	OAuth:      {"oauth", Rate{10, 100}},
	Public:     {"public", Rate{50, 300}},
}

// String returns the class's name as used in metrics.
func (c Class) String() string {
	if int(c) < len(classes) {
		return classes[c].name
	}
	return "unknown"
}

// Default returns the class's default rate; the zero Rate means unlimited.
func (c Class) Default() Rate {
	if int(c) < len(classes) {
		return classes[c].rate
	}
	return Rate{}
}
