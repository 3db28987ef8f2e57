// SPDX-License-Identifier: Apache-2.0

package brainpool

import (
	"encoding/hex"

	"filippo.io/bigmod"
)

// The domain parameters of RFC 5639, 3.4.
var (
	prime         = modulus("a9fb57dba1eea9bc3e660a909d838d726e3bf623d52620282013481d1f6e5377")
	order         = modulus("a9fb57dba1eea9bc3e660a909d838d718c397aa3b561a6f7901e0e82974856a7")
	primeMinusTwo = constant("a9fb57dba1eea9bc3e660a909d838d726e3bf623d52620282013481d1f6e5375")
	orderMinusTwo = constant("a9fb57dba1eea9bc3e660a909d838d718c397aa3b561a6f7901e0e82974856a5")

	curveA  = element("7d5a0975fc2c3057eef67530417affe7fb8055c126dc5c6ce94a4b44f330b5d9")
	curveB  = element("26dc5c6ce94a4b44f330b5d9bbd77cbf958416295cf7e1ce6bccdc18ff8c07b6")
	curveB3 = clone(curveB, prime).Add(curveB, prime).Add(curveB, prime)
	baseX   = element("8bd2aeb9cb7e57cb2c4b482ffc81b7afb9de27e1e3bd23c23a4453bd9ace3262")
	baseY   = element("547ef835c3dac4fd97f8461a14611dc9c27745132ded8e545c1d54c72f046997")
)

func constant(text string) []byte {
	b, err := hex.DecodeString(text)
	if err != nil {
		panic(err) // the constants above are right
	}
	return b
}

func modulus(text string) *bigmod.Modulus {
	m, err := bigmod.NewModulus(constant(text))
	if err != nil {
		panic(err)
	}
	return m
}

func element(text string) *bigmod.Nat {
	n, err := bigmod.NewNat().SetBytes(constant(text), prime)
	if err != nil {
		panic(err)
	}
	return n
}

// clone copies a number that is reduced modulo m.
func clone(x *bigmod.Nat, m *bigmod.Modulus) *bigmod.Nat {
	n := bigmod.NewNat().ExpandFor(m)
	copy(n.Bits(), x.Bits())
	return n
}

// point is a point in homogeneous projective coordinates; (0 : 1 : 0) is infinity.
type point struct{ x, y, z *bigmod.Nat }

func zero() *bigmod.Nat { return bigmod.NewNat().ExpandFor(prime) }
func one() *bigmod.Nat  { return bigmod.NewNat().SetUint(1).ExpandFor(prime) }

func infinity() *point { return &point{zero(), one(), zero()} }

func generator() *point { return &point{clone(baseX, prime), clone(baseY, prime), one()} }

func newPoint(x, y []byte) (*point, error) {
	nx, err := bigmod.NewNat().SetBytes(x, prime)
	if err != nil {
		return nil, ErrPoint
	}
	ny, err := bigmod.NewNat().SetBytes(y, prime)
	if err != nil {
		return nil, ErrPoint
	}
	return &point{nx, ny, one()}, nil
}

// add returns p+q. The formulas are complete: the same steps for different, equal and opposite points and for infinity, so that nothing
// about them shows in time (Renes, Costello, Batina 2015, algorithm 1).
func add(p, q *point) *point {
	m := prime
	t0, t1, t2 := clone(p.x, m).Mul(q.x, m), clone(p.y, m).Mul(q.y, m), clone(p.z, m).Mul(q.z, m)
	// t3 = x1·y2 + x2·y1, t4 = x1·z2 + x2·z1, t5 = y1·z2 + y2·z1
	cross := func(a1, b1, a2, b2, aa, bb *bigmod.Nat) *bigmod.Nat {
		left, right := clone(a1, m).Add(b1, m), clone(a2, m).Add(b2, m)
		return left.Mul(right, m).Sub(aa, m).Sub(bb, m)
	}
	t3 := cross(p.x, p.y, q.x, q.y, t0, t1)
	t4 := cross(p.x, p.z, q.x, q.z, t0, t2)
	t5 := cross(p.y, p.z, q.y, q.z, t1, t2)
	u := clone(curveA, m).Mul(t4, m)
	u.Add(clone(curveB3, m).Mul(t2, m), m) // a·t4 + 3b·t2
	x3, z3 := clone(t1, m).Sub(u, m), clone(t1, m).Add(u, m)
	y3 := clone(x3, m).Mul(z3, m)
	t2.Mul(curveA, m)                                  // a·z1·z2
	w := clone(t0, m).Add(t0, m).Add(t0, m).Add(t2, m) // 3·x1·x2 + a·z1·z2
	t4.Mul(curveB3, m)
	t4.Add(clone(t0, m).Sub(t2, m).Mul(curveA, m), m)
	y3.Add(clone(w, m).Mul(t4, m), m)
	x3.Mul(t3, m).Sub(clone(t5, m).Mul(t4, m), m)
	z3.Mul(t5, m).Add(t3.Mul(w, m), m)
	return &point{x3, y3, z3}
}

// multiply returns scalar·p by a Montgomery ladder: one addition and one doubling for each bit, whatever its value.
func multiply(scalar []byte, p *point) *point {
	r0, r1 := infinity(), p
	for _, b := range scalar {
		for i := 7; i >= 0; i-- {
			bit := uint(b>>i) & 1
			swap(bit, r0, r1)
			r0, r1 = add(r0, r0), add(r0, r1)
			swap(bit, r0, r1)
		}
	}
	return r0
}

// swap exchanges two points when bit is 1, without a branch.
func swap(bit uint, p, q *point) {
	mask := -bit
	for _, pair := range [3][2]*bigmod.Nat{{p.x, q.x}, {p.y, q.y}, {p.z, q.z}} {
		a, b := pair[0].Bits(), pair[1].Bits()
		for i := range a {
			t := mask & (a[i] ^ b[i])
			a[i] ^= t
			b[i] ^= t
		}
	}
}

// affine returns the coordinates; false for infinity.
func (p *point) affine() (x, y []byte, ok bool) {
	if p.z.IsZero() == 1 {
		return nil, nil, false
	}
	inverse := bigmod.NewNat().Exp(p.z, primeMinusTwo, prime)
	return clone(p.x, prime).Mul(inverse, prime).Bytes(prime), clone(p.y, prime).Mul(inverse, prime).Bytes(prime), true
}
