// SPDX-License-Identifier: Apache-2.0

package directory

import (
	"encoding/binary"
	"iter"
	"math/bits"
)

// set is a set of entries by their numbers, one bit each.
type set []uint64

func newSet(n int) set { return make(set, (n+63)/64) }

// add puts in a number; one behind the end is newer than the search and left out.
func (s set) add(doc int) {
	if doc >= 0 && doc/64 < len(s) {
		s[doc/64] |= 1 << (doc % 64)
	}
}

// and keeps what is in the other one too.
func (s set) and(other set) {
	for i := range s {
		s[i] &= other[i]
	}
}

// or takes in what is in the other one.
func (s set) or(other set) {
	for i := range s {
		s[i] |= other[i]
	}
}

// invert swaps what is in and what is not.
func (s set) invert() {
	for i := range s {
		s[i] = ^s[i]
	}
}

// all walks through the numbers, the lowest first.
func (s set) all() iter.Seq[int] {
	return func(yield func(int) bool) {
		for i, word := range s {
			for ; word != 0; word &= word - 1 {
				if !yield(i*64 + bits.TrailingZeros64(word)) {
					return
				}
			}
		}
	}
}

// blockDocs is how many entries' numbers one row of the index covers, so that 16 bits name one of them.
const blockDocs = 1 << 14

// addBlock takes in the entries of one row of the index.
func (s set) addBlock(block int64, docs []byte) {
	base := int(block) * blockDocs
	for ; len(docs) >= 2; docs = docs[2:] {
		s.add(base + int(binary.LittleEndian.Uint16(docs)))
	}
}
