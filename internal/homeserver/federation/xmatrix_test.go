// SPDX-License-Identifier: Apache-2.0

package federation

import (
	"testing"

	"github.com/konsil-health/konsil/internal/matrix/id"
)

func TestParseXMatrix(t *testing.T) {
	t.Parallel()
	want := credentials{"a.example", "b.example:8448", "ed25519:k1", "c2ln"}
	for _, header := range []string{
		want.String(),
		`X-Matrix origin=a.example,destination=b.example:8448,key=ed25519:k1,sig=c2ln`,
		"x-matrix   ORIGIN=\"a.example\" \t,\t key=\"ed25519:k1\",sig=\"c2ln\", Destination=\"b.example:8448\"",
		`X-Matrix origin="a.example",destination="b.example:8448",key="ed25519:k1",sig="c2ln",future="a \"thing\", or two"`,
		`X-Matrix origin="a\.example",destination="b.example:8448",key="ed25519:k1",sig="c2ln",`,
		`X-Matrix ,origin="a.example",,destination="b.example:8448",key="ed25519:k1",sig="c2ln"`,
	} {
		if got, err := parseXMatrix(header); err != nil || got != want {
			t.Errorf("%s: %+v, %v", header, got, err)
		}
	}
	without, err := parseXMatrix(`X-Matrix origin="[::1]:80",key="ed25519:k1",sig="c2ln"`)
	if err != nil || without.destination != "" || without.origin != "[::1]:80" {
		t.Errorf("without destination: %+v, %v", without, err)
	}
	for _, header := range []string{
		"", "X-Matrix", "X-Matrix ", "Bearer abc", `X-Matrix origin="a.example"`,
		`X-Matrix origin="a.example",origin="b.example",key="ed25519:k1",sig="c2ln"`,
		`X-Matrix origin="a.example" key="ed25519:k1" sig="c2ln"`,
		`X-Matrix origin="a.example,key="ed25519:k1",sig="c2ln"`,
		`X-Matrix origin="a example",key="ed25519:k1",sig="c2ln"`,
		`X-Matrix origin="a.example",destination="",key="ed25519:k1",sig="c2ln"`,
		`X-Matrix origin="a.example",key="rsa:k1",sig="c2ln"`,
		`X-Matrix origin="a.example",key="ed25519:",sig="c2ln"`,
		`X-Matrix origin=,key="ed25519:k1",sig="c2ln"`,
		"X-Matrix origin=\"a.example\n\",key=\"ed25519:k1\",sig=\"c2ln\"",
		`X-Matrix origin="a.example\`,
	} {
		if got, err := parseXMatrix(header); err == nil {
			t.Errorf("%q is accepted as %+v", header, got)
		}
	}
}

func FuzzXMatrix(f *testing.F) {
	f.Add(`X-Matrix origin="a.example",destination="b.example",key="ed25519:k1",sig="c2ln"`)
	f.Add(`X-Matrix origin=a.example,key=ed25519:k1,sig=c2ln,x="\\\""`)
	f.Add("X-Matrix ,,\t,")
	f.Fuzz(func(t *testing.T, header string) {
		c, err := parseXMatrix(header)
		if err != nil {
			return
		}
		if _, err := id.ParseServer(string(c.origin)); err != nil {
			t.Fatalf("origin %q", c.origin)
		}
		if c.destination == "" {
			c.destination = "d.example"
		}
		for _, b := range []byte(c.signature) {
			if b == '"' || b == '\\' {
				return // such a value is no base64; the plain form that we write cannot hold it
			}
		}
		again, err := parseXMatrix(c.String())
		if err != nil || again != c {
			t.Fatalf("%q: %+v, then %+v, %v", header, c, again, err)
		}
	})
}

func TestACL(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		acl, server string
		want        bool
	}{
		{`{"allow":["*"]}`, "a.example", true},
		{`{}`, "a.example", false},
		{`{"allow":["*"],"deny":["*.evil.example"]}`, "x.evil.example", false},
		{`{"allow":["*"],"deny":["*.evil.example"]}`, "evil.example", true},
		{`{"allow":["*"],"deny":["EVIL.example"]}`, "evil.example:8449", false},
		{`{"allow":["*.example"],"deny":[]}`, "a.example", true},
		{`{"allow":["?.example"]}`, "ab.example", false},
		{`{"allow":["a*b*c"]}`, "axxbyyc", true},
		{`{"allow":["*"],"allow_ip_literals":false}`, "1.2.3.4:8448", false},
		{`{"allow":["*"],"allow_ip_literals":false}`, "[::1]", false},
		{`{"allow":["*"],"allow_ip_literals":"no"}`, "1.2.3.4", true},
		{`{"allow":["*",7],"deny":[null]}`, "a.example", true},
		{`{"allow":"*"}`, "a.example", false},
		{`{"allow":["*"],"deny":"*"}`, "a.example", true},
	} {
		if got := aclAllows([]byte(c.acl), id.Server(c.server)); got != c.want {
			t.Errorf("%s for %s: %v", c.acl, c.server, got)
		}
	}
}
