// SPDX-License-Identifier: Apache-2.0

package certificate

import (
	"bytes"
	"fmt"
	"slices"
	"time"

	"github.com/go-json-experiment/json"
)

// Root is an entry of roots.json, the published list of the infrastructure's roots: a root with the cross certificates that join it to its
// neighbours in time. Certificates are DER, in base64. Cross certificates are missing at the ends of the chain.
type Root struct {
	Name string `json:"name"`
	CN   string `json:"CN"`
	Cert []byte `json:"cert"`
	Prev []byte `json:"prev,omitempty"`
	Next []byte `json:"next,omitempty"`
	SKI  string `json:"SKI,omitempty"`
}

// What roots.json may hold at most, in bytes and entries.
const (
	MaxRootsSize = 1 << 20
	maxRoots     = 100
)

// Learn reads roots.json and takes in each root to which a cross certificate leads from a trusted one, forwards and backwards in time and over
// several steps. A root that no trusted key vouches for stays unknown; nothing that is trusted is lost. It returns the new roots.
func (t *Trust) Learn(text []byte, at time.Time) ([]*Certificate, error) {
	candidates, crosses, err := parseRoots(text)
	if err != nil {
		return nil, err
	}
	for {
		known := t.now.Load()
		learned := reach(known.roots, candidates, crosses, at)
		if len(learned) == 0 || t.now.CompareAndSwap(known, newAnchors(append(slices.Clone(known.roots), learned...), known.between)) {
			return learned, nil
		}
	}
}

func parseRoots(text []byte) (roots, crosses []*Certificate, err error) {
	var list []Root
	if len(text) > MaxRootsSize {
		return nil, nil, fmt.Errorf("%w: roots.json has more than %d bytes", ErrFormat, MaxRootsSize)
	}
	if err := json.Unmarshal(text, &list); err != nil {
		return nil, nil, fmt.Errorf("%w: roots.json: %w", ErrFormat, err)
	}
	if len(list) > maxRoots {
		return nil, nil, fmt.Errorf("%w: roots.json has more than %d roots", ErrFormat, maxRoots)
	}
	for _, entry := range list {
		root, err := Parse(entry.Cert)
		if err != nil {
			return nil, nil, fmt.Errorf("roots.json: %.60q: %w", entry.Name, err)
		}
		roots = append(roots, root)
		for _, der := range [][]byte{entry.Prev, entry.Next} {
			if len(der) == 0 {
				continue
			}
			cross, err := Parse(der)
			if err != nil {
				return nil, nil, fmt.Errorf("roots.json: cross certificate of %.60q: %w", entry.Name, err)
			}
			crosses = append(crosses, cross)
		}
	}
	return roots, crosses, nil
}

// reach walks cross certificates from the trusted roots until nothing new is found.
func reach(trusted, candidates, crosses []*Certificate, at time.Time) (learned []*Certificate) {
	all := slices.Clone(trusted)
	for found := true; found; {
		found = false
		for _, candidate := range candidates {
			if slices.ContainsFunc(all, candidate.same) || !candidate.isRoot(at) || !vouched(candidate, all, crosses, at) {
				continue
			}
			all, learned, found = append(all, candidate), append(learned, candidate), true
		}
	}
	return learned
}

// vouched says whether a trusted root's key signed a cross certificate for a root's name and key.
func vouched(root *Certificate, trusted, crosses []*Certificate, at time.Time) bool {
	return slices.ContainsFunc(crosses, func(cross *Certificate) bool {
		return cross.X509.IsCA && cross.checkValidity(at) == nil && bytes.Equal(cross.X509.RawSubject, root.X509.RawSubject) &&
			bytes.Equal(cross.X509.RawSubjectPublicKeyInfo, root.X509.RawSubjectPublicKeyInfo) &&
			slices.ContainsFunc(trusted, func(by *Certificate) bool { return by.checkValidity(at) == nil && signedBy(cross, by) })
	})
}

// isRoot says whether a certificate is an authority's, signed by itself and valid.
func (c *Certificate) isRoot(at time.Time) bool {
	return c.X509.IsCA && c.checkValidity(at) == nil && signedBy(c, c)
}

func (c *Certificate) same(other *Certificate) bool { return bytes.Equal(c.X509.Raw, other.X509.Raw) }
