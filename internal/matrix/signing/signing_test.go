// SPDX-License-Identifier: Apache-2.0

package signing

import (
	"crypto/ed25519"
	"errors"
	"testing"

	"github.com/konsil-health/konsil/internal/matrix/canonicaljson"
)

// specKey is the key of the specification's test vectors.
func specKey(t testing.TB) ed25519.PrivateKey {
	seed, err := Decode("YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1")
	if err != nil {
		t.Fatal(err)
	}
	return ed25519.NewKeyFromSeed(seed)
}

// Appendices, "Cryptographic Test Vectors", "JSON Signing".
func TestSpecificationVectors(t *testing.T) {
	t.Parallel()
	priv := specKey(t)
	for in, want := range map[string]string{
		`{}`:                       `{"signatures":{"domain":{"ed25519:1":"K8280/U9SSy9IVtjBuVeLr+HpOB4BQFWbg+UZaADMtTdGYI7Geitb76LTrr5QV/7Xg4ahLwYGYZzuHGZKM5ZAQ"}}}`,
		`{"one": 1, "two": "Two"}`: `{"one":1,"signatures":{"domain":{"ed25519:1":"KqmLSbO39/Bzb0QIYE82zqLwsA+PDzYIpIRA2sRQ4sL53+sN6/fpNSoqE7BP7vBZhG6kYdD13EIMJpvhJI+6Bw"}},"two":"Two"}`,
	} {
		got, err := SignJSON([]byte(in), "domain", "ed25519:1", priv)
		if err != nil || string(got) != want {
			t.Errorf("%s, %v", got, err)
		}
		if err := VerifyJSON(got, "domain", "ed25519:1", priv.Public().(ed25519.PublicKey)); err != nil {
			t.Error(err)
		}
	}
}

func TestSigning(t *testing.T) {
	t.Parallel()
	priv := specKey(t)
	pub := priv.Public().(ed25519.PublicKey)
	signed, err := SignJSON([]byte(`{"b":1,"unsigned":{"age":1},"a":1.5}`), "x", "ed25519:1", priv)
	if err != nil {
		t.Fatal(err)
	}
	signed, err = SignJSON(signed, "y", "ed25519:2", priv)
	if err != nil {
		t.Fatal(err)
	}
	signed = Replace(signed, "unsigned", []byte(`{"other":true}`))
	for _, k := range []struct{ name, key string }{{"x", "ed25519:1"}, {"y", "ed25519:2"}} {
		if canonicaljson.Get(signed, "signatures", k.name, k.key) == nil {
			t.Error("lost a signature")
		}
	}
	if err := VerifyJSON(signed, "x", "ed25519:1", pub); err != nil {
		t.Error(err)
	}
	if err := VerifyJSON(signed, "x", "ed25519:2", pub); !errors.Is(err, ErrMissing) {
		t.Error(err)
	}
	if err := VerifyJSON(Replace(signed, "b", []byte("2")), "x", "ed25519:1", pub); !errors.Is(err, ErrInvalid) {
		t.Error(err)
	}
	if err := VerifyJSON(signed, "x", "ed25519:1", pub[:5]); !errors.Is(err, ErrInvalid) {
		t.Error(err)
	}
	for _, bad := range []string{`[]`, `1`, `{`, ``} {
		if _, err := SignJSON([]byte(bad), "x", "ed25519:1", priv); err == nil {
			t.Errorf("signed %q", bad)
		}
		if VerifyJSON([]byte(bad), "x", "ed25519:1", pub) == nil {
			t.Errorf("verified %q", bad)
		}
	}
	for _, bad := range []string{`{"signatures":1}`, `{"signatures":{"x":[]}}`} {
		if _, err := SignJSON([]byte(bad), "x", "ed25519:1", priv); !errors.Is(err, ErrNotObject) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

func TestReplace(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ obj, name, value, want string }{
		{``, "a", `1`, `{"a":1}`}, {`{}`, "a", ``, `{}`}, {`{"a":1,"c":3}`, "b", `2`, `{"a":1,"b":2,"c":3}`},
		{`{"a":1,"c":3}`, "c", `4`, `{"a":1,"c":4}`}, {`{"a":1,"c":3}`, "a", ``, `{"c":3}`}, {`{"a":1}`, "z", `{}`, `{"a":1,"z":{}}`},
	} {
		var value []byte
		if c.value != "" {
			value = []byte(c.value)
		}
		if got := Replace([]byte(c.obj), c.name, value); string(got) != c.want {
			t.Errorf("%+v: %s", c, got)
		}
	}
}

// Appendices, "Unpadded Base64".
func TestBase64(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{"": "", "f": "Zg", "fo": "Zm8", "foo": "Zm9v", "foob": "Zm9vYg", "fooba": "Zm9vYmE", "foobar": "Zm9vYmFy"} {
		if got := Encode([]byte(in)); got != want {
			t.Error(got, want)
		}
		for _, padded := range []string{want, want + "=", want + "=="} {
			if got, err := Decode(padded); err != nil || string(got) != in {
				t.Errorf("Decode(%s) = %q, %v", padded, got, err)
			}
		}
	}
	a, err1 := Decode("-_-_")
	b, err2 := Decode("+/+/")
	if err1 != nil || err2 != nil || string(a) != string(b) {
		t.Error(err1, err2)
	}
	for _, bad := range []string{"*", "a", "Zm9v\n", "Zm+_"} {
		if got, err := Decode(bad); err == nil {
			t.Errorf("Decode(%q) = %q", bad, got)
		}
	}
}
