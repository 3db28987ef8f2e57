// SPDX-License-Identifier: Apache-2.0

//lint:file-ignore SA1019 the test looks at the coordinates that only these fields carry

package brainpool

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"testing"
)

// reference returns a file of the reference data, or skips the test saying what is missing.
func reference(t testing.TB, name string) []byte {
	t.Helper()
	dir := os.Getenv("KONSIL_REFERENCE")
	if dir == "" {
		dir = "../../../../shared/reference"
	}
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Skipf("skipped: no %s in the reference data (KONSIL_REFERENCE)", name)
	}
	return b
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestRFC7027 is the key agreement of RFC 7027, A.1.
func TestRFC7027(t *testing.T) {
	t.Parallel()
	a, err := NewPrivateKey(unhex(t, "81DB1EE100150FF2EA338D708271BE38300CB54241D79950F77B063039804F1D"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := NewPrivateKey(unhex(t, "55E40BC41E37E3E2AD25C3C6654511FFA8474A91A0032087593852D3E7D76BD3"))
	if err != nil {
		t.Fatal(err)
	}
	x, y := Coordinates(a.PublicKey())
	if !bytes.Equal(x, unhex(t, "44106E913F92BC02A1705D9953A8414DB95E1AAA49E81D9E85F929A8E3100BE5")) ||
		!bytes.Equal(y, unhex(t, "8AB4846F11CACCB73CE49CBDD120F5A900A69FD32C272223F789EF10EB089BDC")) {
		t.Errorf("public key A is %x %x", x, y)
	}
	x, _ = Coordinates(b.PublicKey())
	if !bytes.Equal(x, unhex(t, "8D2D688C6CF93E1160AD04CC4429117DC2C41825E1E9FCA0ADDD34E6F1B39F7B")) {
		t.Errorf("public key B is %x", x)
	}
	want := unhex(t, "89AFC39D41D3B327814B80940B042590F96556EC91E6AE7939BCE31F3A18BF2B")
	for _, pair := range [][2]*PrivateKey{{a, b}, {b, a}} {
		z, err := pair[0].ECDH(pair[1].PublicKey())
		if err != nil || !bytes.Equal(z, want) {
			t.Errorf("shared secret is %x, %v", z, err)
		}
	}
}

// TestAgainstProtonMail compares public keys and signatures of random keys with the independent curve.
func TestAgainstProtonMail(t *testing.T) {
	t.Parallel()
	for range 20 {
		key, err := GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		wantX, wantY := Curve().ScalarBaseMult(key.Bytes())
		if pub := key.PublicKey(); pub.X.Cmp(wantX) != 0 || pub.Y.Cmp(wantY) != 0 {
			t.Fatalf("key %x: another public key than the independent curve's", key.Bytes())
		}
		digest := sha256.Sum256(key.Bytes())
		raw, err := key.SignRaw(digest[:])
		if err != nil {
			t.Fatal(err)
		}
		if !VerifyRaw(key.PublicKey(), digest[:], raw) {
			t.Fatalf("key %x: signature does not verify", key.Bytes())
		}
		again, err := key.SignRaw(digest[:])
		if err != nil || !bytes.Equal(raw, again) {
			t.Fatal("signing is not deterministic")
		}
		der, err := key.Sign(nil, digest[:], nil)
		if err != nil || !ecdsa.VerifyASN1(key.PublicKey(), digest[:], der) {
			t.Fatalf("key %x: DER signature does not verify: %v", key.Bytes(), err)
		}
		digest[0] ^= 1
		if VerifyRaw(key.PublicKey(), digest[:], raw) {
			t.Fatal("a signature verifies over another digest")
		}
	}
}

// TestEdgesOfTheScalar walks the scalars where incomplete formulas fail.
func TestEdgesOfTheScalar(t *testing.T) {
	t.Parallel()
	n := Curve().Params().N
	for _, k := range []*big.Int{big.NewInt(1), big.NewInt(2), big.NewInt(3), new(big.Int).Sub(n, big.NewInt(1)), new(big.Int).Sub(n, big.NewInt(2))} {
		key, err := NewPrivateKey(k.FillBytes(make([]byte, Size)))
		if err != nil {
			t.Fatal(err)
		}
		x, y := Curve().ScalarBaseMult(k.FillBytes(make([]byte, Size)))
		if key.PublicKey().X.Cmp(x) != 0 || key.PublicKey().Y.Cmp(y) != 0 {
			t.Errorf("scalar %d: wrong point", k)
		}
	}
	for _, k := range []*big.Int{new(big.Int), n, new(big.Int).Add(n, big.NewInt(1))} {
		if _, err := NewPrivateKey(k.FillBytes(make([]byte, Size))); !errors.Is(err, ErrScalar) {
			t.Errorf("scalar %d: %v", k, err)
		}
	}
	if _, err := NewPrivateKey(make([]byte, 31)); !errors.Is(err, ErrScalar) {
		t.Error("a short scalar is accepted")
	}
	if _, _, ok := multiply(order.Nat().Bytes(order), generator()).affine(); ok {
		t.Error("order times generator is not infinity")
	}
	if sum := add(infinity(), generator()); !bytes.Equal(must(t, sum), must(t, generator())) {
		t.Error("infinity + G is not G")
	}
}

func must(t *testing.T, p *point) []byte {
	t.Helper()
	x, y, ok := p.affine()
	if !ok {
		t.Fatal("infinity")
	}
	return append(x, y...)
}

func TestBadPoints(t *testing.T) {
	t.Parallel()
	good := Point(mustKey(t).PublicKey())
	if _, err := ParsePublicKey(good); err != nil {
		t.Fatal(err)
	}
	off := bytes.Clone(good)
	off[64] ^= 1
	tooBig := bytes.Clone(good)
	copy(tooBig[1:], bytes.Repeat([]byte{0xff}, Size))
	compressed := bytes.Clone(good)
	compressed[0] = 2
	for name, b := range map[string][]byte{"off the curve": off, "x above the prime": tooBig, "compressed": compressed, "short": good[:64], "empty": nil, "infinity": {0}, "zero": append([]byte{4}, make([]byte, 64)...)} {
		if _, err := ParsePublicKey(b); !errors.Is(err, ErrPoint) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := mustKey(t).ECDH(&ecdsa.PublicKey{Curve: Curve(), X: big.NewInt(1), Y: big.NewInt(1)}); err == nil {
		t.Error("key agreement with a point off the curve")
	}
}

func mustKey(t testing.TB) *PrivateKey {
	t.Helper()
	key, err := GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// TestWycheproof runs the published signatures that implementations get wrong.
func TestWycheproof(t *testing.T) {
	t.Parallel()
	var file struct {
		TestGroups []struct {
			PublicKey struct{ Uncompressed string }
			Tests     []struct {
				TcID     int
				Comment  string
				Msg, Sig string
				Result   string
				Flags    []string
			}
		}
	}
	if err := json.Unmarshal(reference(t, "gematik/wycheproof/ecdsa_brainpoolP256r1_sha256_test.json"), &file); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, g := range file.TestGroups {
		key, err := ParsePublicKey(unhex(t, g.PublicKey.Uncompressed))
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range g.Tests {
			digest := sha256.Sum256(unhex(t, c.Msg))
			if got := ecdsa.VerifyASN1(key, digest[:], unhex(t, c.Sig)); got != (c.Result == "valid") {
				t.Errorf("%d %s: verified %v, want %s", c.TcID, c.Comment, got, c.Result)
			}
			n++
		}
	}
	if n < 400 {
		t.Errorf("only %d vectors", n)
	}
}

func FuzzParsePublicKey(f *testing.F) {
	f.Add(Point(mustKey(f).PublicKey()))
	f.Add([]byte{4})
	f.Fuzz(func(t *testing.T, b []byte) {
		key, err := ParsePublicKey(b)
		if err == nil && !bytes.Equal(Point(key), b) {
			t.Error("a point does not come back")
		}
	})
}

func BenchmarkSign(b *testing.B) {
	key := mustKey(b)
	digest := sha256.Sum256(nil)
	for b.Loop() {
		if _, err := key.SignRaw(digest[:]); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerify(b *testing.B) {
	key := mustKey(b)
	digest := sha256.Sum256(nil)
	raw, err := key.SignRaw(digest[:])
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		VerifyRaw(key.PublicKey(), digest[:], raw)
	}
}
