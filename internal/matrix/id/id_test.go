// SPDX-License-Identifier: Apache-2.0

package id

import (
	"strings"
	"testing"
)

func TestParseServer(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]struct {
		host    string
		port    int
		literal bool
	}{
		"matrix.org": {"matrix.org", 0, false}, "matrix.org:8888": {"matrix.org", 8888, false}, "hs1": {"hs1", 0, false},
		"1.2.3.4": {"1.2.3.4", 0, true}, "1.2.3.4:1234": {"1.2.3.4", 1234, true}, "[1234:5678::abcd]": {"[1234:5678::abcd]", 0, true},
		"[1234:5678::abcd]:5678": {"[1234:5678::abcd]", 5678, true}, "Praxis-Sonne.localhost:8480": {"Praxis-Sonne.localhost", 8480, false},
	} {
		s, err := ParseServer(in)
		if err != nil {
			t.Errorf("%s: %v", in, err)
			continue
		}
		if s.Host() != want.host || s.Port() != want.port || s.IsLiteral() != want.literal {
			t.Errorf("%s: %s %d %v", in, s.Host(), s.Port(), s.IsLiteral())
		}
	}
	for _, in := range []string{"", ":80", "a:", "a:b", "a:123456", "a:99999", "a b", "ä.de", "[::1", "::1", "[::1]x", "[::1%eth0]", "[1.2.3.4]", "a/b", "a_b", "a:1:2", strings.Repeat("a", 256)} {
		if s, err := ParseServer(in); err == nil {
			t.Errorf("took %q as %q", in, s)
		}
	}
}

func TestParseUser(t *testing.T) {
	t.Parallel()
	for _, in := range []string{"@a:b", "@:b", "@A B\n/ü:b.c:80", "@" + strings.Repeat("x", 252) + ":b"} {
		if _, err := ParseUser(in); err != nil {
			t.Errorf("%q: %v", in, err)
		}
	}
	for _, in := range []string{"", "@", "@a", "a:b", "@a:", "@a\x00:b", "@a:b c", "@\xff:b", "!a:b", "@" + strings.Repeat("x", 253) + ":b"} {
		if _, err := ParseUser(in); err == nil {
			t.Errorf("took %q", in)
		}
	}
	u := User("@dr.müller:praxis.example:8448")
	if u.Localpart() != "dr.müller" || u.Server() != "praxis.example:8448" {
		t.Error(u.Localpart(), u.Server())
	}
	for _, bad := range []User{"", "@", "x", ":", "@x"} {
		_, _ = bad.Localpart(), bad.Server() // no panic
	}
}

func TestNewUser(t *testing.T) {
	t.Parallel()
	if u, err := NewUser("a-z0.9_=/+", "x.de"); err != nil || u != "@a-z0.9_=/+:x.de" {
		t.Error(u, err)
	}
	for _, lp := range []string{"", "A", "ä", "a b", "a:b", strings.Repeat("x", 255)} {
		if u, err := NewUser(lp, "x.de"); err == nil {
			t.Errorf("took %q", u)
		}
	}
}

func TestRoomsEventsAliases(t *testing.T) {
	t.Parallel()
	old, err := ParseRoom("!abc:x.de:1")
	if err != nil {
		t.Fatal(err)
	}
	if s, ok := old.Server(); !ok || s != "x.de:1" {
		t.Error(s, ok)
	}
	hashed, err := ParseRoom("!Nhcu5BS-UMnFX7hBVfVSoXiD7OgH6iRT-xyIuqDnpYQ")
	if err != nil {
		t.Fatal(err)
	}
	if s, ok := hashed.Server(); ok || s != "" {
		t.Error(s, ok)
	}
	for _, in := range []string{"", "!", "abc", "!:x.de", "!a:", "!a:b c", "!" + strings.Repeat("x", 255)} {
		if _, err := ParseRoom(in); err == nil {
			t.Errorf("took room %q", in)
		}
	}
	if _, err := ParseEvent("$Rqnc-F-dvnEYJTyHq_iKxU2bZ1CI92-kuZq3a5lr5Zg"); err != nil {
		t.Error(err)
	}
	for _, in := range []string{"", "$", "x", "$\x00", "$" + strings.Repeat("x", 255)} {
		if _, err := ParseEvent(in); err == nil {
			t.Errorf("took event %q", in)
		}
	}
	a, err := ParseAlias("#rückruf:x.de")
	if err != nil || a.Localpart() != "rückruf" || a.Server() != "x.de" {
		t.Error(a, err)
	}
	for _, in := range []string{"#a", "#:x.de", "a:x.de", "#a:"} {
		if _, err := ParseAlias(in); err == nil {
			t.Errorf("took alias %q", in)
		}
	}
	k, err := ParseKeyID("ed25519:a_1")
	if err != nil || k.Algorithm() != "ed25519" || k.Name() != "a_1" {
		t.Error(k, err)
	}
	for _, in := range []string{"", "ed25519", ":a", "ed25519:"} {
		if _, err := ParseKeyID(in); err == nil {
			t.Errorf("took key id %q", in)
		}
	}
}

// FuzzParse: no parser panics, what it takes fits the limits and comes apart into what it was made of.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"@a:b", "!a:b:1", "!x", "$x", "#a:[::1]:1", "a.b:80", "[::1]"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if u, err := ParseUser(s); err == nil {
			if len(u) > MaxLength || "@"+u.Localpart()+":"+string(u.Server()) != s {
				t.Fatalf("user %q", s)
			}
			if _, err := ParseServer(string(u.Server())); err != nil {
				t.Fatal(err)
			}
		}
		if a, err := ParseAlias(s); err == nil && "#"+a.Localpart()+":"+string(a.Server()) != s {
			t.Fatalf("alias %q", s)
		}
		if r, err := ParseRoom(s); err == nil {
			if srv, ok := r.Server(); ok != strings.Contains(s, ":") || ok && !strings.HasSuffix(s, ":"+string(srv)) {
				t.Fatalf("room %q", s)
			}
		}
		if srv, err := ParseServer(s); err == nil && !strings.HasPrefix(s, srv.Host()) {
			t.Fatalf("server %q", s)
		}
		_, _ = ParseEvent(s)
		_, _ = ParseKeyID(s)
		_, _ = Server(s).Port(), Server(s).IsLiteral()
	})
}
