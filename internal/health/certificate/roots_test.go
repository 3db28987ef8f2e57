// SPDX-License-Identifier: Apache-2.0

package certificate_test

import (
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/konsil-health/konsil/internal/health/brainpool"
	"github.com/konsil-health/konsil/internal/health/certificate"
)

// generation is one of the roots that follow each other.
type generation struct {
	root *certificate.Certificate
	key  *brainpool.PrivateKey
	name pkix.Name
}

// generations makes roots as the infrastructure replaces them every few years.
func generations(t testing.TB, n int) []generation {
	t.Helper()
	all := make([]generation, n)
	for i := range all {
		all[i] = generation{key: newKey(t), name: pkix.Name{Country: []string{"DE"}, CommonName: fmt.Sprintf("Konsil.RCA%d TEST-ONLY", i+1)}}
		all[i].root = all[i].vouch(t, all[i], end)
	}
	return all
}

// vouch makes a certificate of another root's key; of its own it makes the root.
func (g generation) vouch(t testing.TB, of generation, until time.Time) *certificate.Certificate {
	t.Helper()
	template := certificate.Template{Serial: big.NewInt(1000), Subject: of.name, NotBefore: begin, NotAfter: until, Key: of.key.PublicKey(), CA: true}
	c, err := certificate.Issue(template, g.root, g.key)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func list(t testing.TB, roots ...certificate.Root) []byte {
	t.Helper()
	text, err := json.Marshal(roots)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func (g generation) entry(prev, next *certificate.Certificate) certificate.Root {
	r := certificate.Root{Name: g.name.CommonName, CN: g.name.CommonName, Cert: g.root.DER()}
	if prev != nil {
		r.Prev = prev.DER()
	}
	if next != nil {
		r.Next = next.DER()
	}
	return r
}

func TestLearnRoots(t *testing.T) {
	t.Parallel()
	g := generations(t, 4)
	cross := func(by, of int) *certificate.Certificate { return g[by].vouch(t, g[of], end) }
	chain := list(t, g[0].entry(nil, cross(0, 1)), g[1].entry(cross(1, 0), cross(1, 2)), g[2].entry(cross(2, 1), cross(2, 3)), g[3].entry(cross(3, 2), nil))
	gap := list(t, g[0].entry(nil, cross(0, 1)), g[1].entry(nil, nil), g[2].entry(nil, cross(2, 3)), g[3].entry(nil, nil))
	alone := list(t, g[0].entry(nil, nil), g[1].entry(nil, nil))
	expired := list(t, g[0].entry(nil, g[0].vouch(t, g[1], now.Add(-time.Hour))), g[1].entry(nil, nil))
	stranger := generations(t, 2)
	imposter := list(t, g[0].entry(nil, stranger[0].vouch(t, g[1], end)), g[1].entry(nil, nil))            // same issuer name, another key
	exchanged := list(t, g[0].entry(nil, cross(0, 1)), stranger[1].entry(nil, nil))                        // same name, another root
	backwards := list(t, g[2].entry(cross(2, 1), nil), g[1].entry(cross(1, 0), nil), g[0].entry(nil, nil)) // the list's order does not matter
	for name, c := range map[string]struct {
		anchor int
		text   []byte
		want   string // the roots that become known
	}{
		"forwards over three steps":      {0, chain, "234"},
		"backwards over three steps":     {3, chain, "321"},
		"in both directions":             {1, chain, "134"},
		"only what is joined":            {0, gap, "2"},
		"no cross certificate":           {0, alone, ""},
		"an expired cross certificate":   {0, expired, ""},
		"a cross certificate by another": {0, imposter, ""},
		"another root of the same name":  {0, exchanged, ""},
		"an anchor that is not listed":   {2, list(t, g[1].entry(nil, nil)), ""},
		"written in any order":           {2, backwards, "21"},
		"the same again changes nothing": {0, alone, ""},
	} {
		trust := certificate.NewTrust([]*certificate.Certificate{g[c.anchor].root}, nil)
		learned, err := trust.Learn(c.text, now)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		got := map[string]bool{}
		for _, root := range learned {
			got[strings.TrimSuffix(strings.TrimPrefix(root.X509.Subject.CommonName, "Konsil.RCA"), " TEST-ONLY")] = true
		}
		if len(got) != len(c.want) || len(trust.Roots()) != 1+len(c.want) {
			t.Errorf("%s: learned %v, want %s", name, got, c.want)
		}
		for _, r := range c.want {
			if !got[string(r)] {
				t.Errorf("%s: learned %v, want %s", name, got, c.want)
			}
		}
		if again, err := trust.Learn(c.text, now); err != nil || len(again) != 0 {
			t.Errorf("%s, a second time: %v %v", name, again, err)
		}
	}
}

// TestLearnedRootCounts checks a card of a new root: refused before the root is learned, accepted afterwards, old cards stay good.
func TestLearnedRootCounts(t *testing.T) {
	t.Parallel()
	p, g := newPKI(t), generations(t, 1)
	old := p.issue(t, nil)
	oldRoot := generation{root: p.root, key: p.rootKey}
	fresh := &pki{root: g[0].root, rootKey: g[0].key, caKey: newKey(t), serial: 500}
	fresh.ca = g[0].vouch(t, generation{key: fresh.caKey, name: pkix.Name{CommonName: "Konsil.SMCB-CA2 TEST-ONLY"}}, end)
	card := fresh.issue(t, nil)
	trust := certificate.NewTrust([]*certificate.Certificate{p.root}, []*certificate.Certificate{p.ca})
	expect := certificate.Expect{At: now, Between: []*certificate.Certificate{fresh.ca}}
	var failed *certificate.CheckError
	if err := trust.Check(card, expect); !errors.As(err, &failed) || failed.Check != certificate.ChainCheck {
		t.Errorf("a card of an unknown root: %v", err)
	}
	if trust.Issuer(card) != nil || trust.Issuer(card, fresh.ca) != fresh.ca || trust.Issuer(old) != p.ca || trust.Issuer(p.root) != p.root {
		t.Error("issuers")
	}
	if _, err := trust.Learn(list(t, certificate.Root{Cert: p.root.DER(), Next: oldRoot.vouch(t, g[0], end).DER()}, g[0].entry(nil, nil)), now); err != nil {
		t.Fatal(err)
	}
	if err := trust.Check(card, expect); err != nil {
		t.Errorf("after the root was learned: %v", err)
	}
	if err := trust.Check(card, certificate.Expect{At: now}); !errors.As(err, &failed) || failed.Check != certificate.ChainCheck {
		t.Errorf("without the authority between: %v", err)
	}
	if err := trust.Check(old, certificate.Expect{At: now}); err != nil {
		t.Errorf("an old card: %v", err)
	}
}

func TestBadRootLists(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	trust := p.trust()
	for name, text := range map[string][]byte{
		"no JSON": []byte("<html>"), "no list": []byte(`{}`), "no certificate": []byte(`[{"name":"RCA1","cert":""}]`), "no DER": []byte(`[{"name":"RCA1","cert":"AAAA"}]`),
		"a broken cross certificate": list(t, certificate.Root{Cert: p.root.DER(), Next: []byte{1}}), "too many": list(t, make([]certificate.Root, 101)...),
		"too large": make([]byte, certificate.MaxRootsSize+1),
	} {
		if _, err := trust.Learn(text, now); !errors.Is(err, certificate.ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
