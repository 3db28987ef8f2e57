// SPDX-License-Identifier: Apache-2.0

package directory

import (
	"bytes"
	"encoding/binary"
	"hash/fnv"
	"slices"
	"strings"

	"github.com/konsil-health/konsil/internal/health/fhir"
)

// textParameters are the names of all parameters of texts in the index, in order: where a name stands is its number in an entry's stored texts.
var textParameters = func() []string {
	var all []string
	take := func(prefix string, of []parameter) {
		for _, p := range of {
			switch p.kind {
			case text:
				all = append(all, prefix+p.name)
			case token:
				all = append(all, prefix+p.name+":text")
			}
		}
	}
	for root, name := range short {
		all = append(all, name+":_text")
		take(name+":", parameters[root])
		take(name+":", everywhere)
		for _, l := range links[root] {
			take(name+":"+l.name+".", parameters[l.target])
			if l.target == fhir.Endpoint {
				take(hiddenMark+name+":"+l.name+".", parameters[l.target])
			}
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}()

var textNumbers = func() map[string]uint64 {
	all := map[string]uint64{}
	for i, name := range textParameters {
		all[name] = uint64(i)
	}
	return all
}()

// indexFormat tells which parameters the index holds and in which form; entries indexed in another one are indexed anew when the directory starts.
// Count formVersion up when [index] finds something else under the same names.
var indexFormat = func() int64 {
	h := fnv.New32a()
	h.Write([]byte(formVersion + strings.Join(textParameters, " ")))
	return int64(h.Sum32()) + 1 // never 0, which is an empty index
}()

const formVersion = "1 "

// encodeTexts writes an entry's texts: parameter's number, text, a null.
func encodeTexts(all []term) []byte {
	var out []byte
	for _, t := range all {
		out = binary.AppendUvarint(out, textNumbers[t.param])
		out = append(append(out, t.value...), 0)
	}
	return out
}

func compareTerms(x, y term) int {
	if c := strings.Compare(x.param, y.param); c != 0 {
		return c
	}
	return strings.Compare(x.value, y.value)
}

// anyText says whether any text of some parameters passes a test.
func anyText(stored []byte, params []uint64, test func(text []byte) bool) bool {
	for len(stored) > 0 {
		number, n := binary.Uvarint(stored)
		if n <= 0 {
			return false
		}
		end := n + bytes.IndexByte(stored[n:], 0)
		if end < n {
			return false
		}
		if slices.Contains(params, number) && test(stored[n:end]) {
			return true
		}
		stored = stored[end+1:]
	}
	return false
}
