// SPDX-License-Identifier: Apache-2.0

package timeline

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"hash/crc32"
	"math"
	"math/rand/v2"

	"github.com/konsil-health/konsil/internal/foundation/keyring"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// Tokens seals and opens the tokens of one cell. The same content makes the same token, so that a client that compares tokens sees nothing
// change when nothing did.
type Tokens struct {
	aead  cipher.AEAD
	nonce []byte
	node  uint32
}

// NewTokens returns the sealer of a cell; every start of a node is another node in its tokens.
func NewTokens(ring *keyring.Ring) *Tokens {
	key := ring.Derive("client tokens", 64)
	block, err := aes.NewCipher(key[:32])
	if err != nil {
		panic(err) // 32 bytes are a valid AES key
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic(err)
	}
	return &Tokens{aead: aead, nonce: key[32:], node: rand.Uint32()}
}

// The first letter of a token says what it is.
const (
	streamToken = 's'
	placeToken  = 'p'
	markToken   = 'm'
)

// StreamToken is how far a client has synced: next_batch of /sync.
type StreamToken struct {
	// Epoch and Position are the tenant's (engine rules 1 and 7). ToDevice is the position up to which to-device messages were sent; it is
	// behind Position when an answer could not hold them all.
	Epoch, Position, ToDevice int64
	// Node made the token; Ephemeral is that node's counter for typing and presence.
	Node      uint32
	Ephemeral uint64
	// Device is a checksum of the user and device that the token was made for: only that device's to-device messages are acknowledged by it.
	Device uint32
	// Generation names what a connection of sliding sync had been sent, Connection is a checksum of the connection's name; 0 for /sync.
	Generation int64
	Connection uint32
}

// DeviceSum is the checksum of a user's device for [StreamToken].
func DeviceSum(user id.User, device id.Device) uint32 {
	return crc32.ChecksumIEEE([]byte(string(user) + "\x00" + string(device)))
}

// Place is somewhere in a room's history, from which to page. Events of the timeline at positions outside of (After, UpTo] are passed over:
// they are on the other side of the place, whatever their order number says.
type Place struct {
	room.Cursor
	After, UpTo int64
}

// Anywhere is a place without bounds of position.
func Anywhere(c room.Cursor) Place { return Place{Cursor: c, UpTo: math.MaxInt64} }

// Node is this node's number in tokens.
func (k *Tokens) Node() uint32 { return k.node }

// Stream seals a stream token.
func (k *Tokens) Stream(t tenant.ID, s StreamToken) string {
	b := binary.AppendVarint(nil, s.Epoch)
	b = binary.AppendVarint(b, s.Position)
	b = binary.AppendVarint(b, s.Position-s.ToDevice)
	b = binary.AppendUvarint(b, uint64(s.Node))
	b = binary.AppendUvarint(b, s.Ephemeral)
	b = binary.AppendUvarint(b, uint64(s.Device))
	if s.Generation != 0 {
		b = binary.AppendVarint(b, s.Generation)
		b = binary.AppendUvarint(b, uint64(s.Connection))
	}
	return k.seal(t, streamToken, b)
}

// Place seals a place in a room's history.
func (k *Tokens) Place(t tenant.ID, p Place) string {
	b := binary.AppendVarint(nil, p.Topological)
	b = binary.AppendVarint(b, p.Arrival)
	b = binary.AppendVarint(b, p.After)
	b = binary.AppendVarint(b, p.UpTo)
	return k.seal(t, placeToken, b)
}

// OpenStream opens a token of /sync; M_INVALID_PARAM for anything else.
func (k *Tokens) OpenStream(t tenant.ID, token string) (StreamToken, error) {
	kind, b, ok := k.open(t, token)
	if !ok || kind != streamToken {
		return StreamToken{}, mxerror.InvalidParam.With("this is no sync token")
	}
	r := reader{b: b}
	s := StreamToken{Epoch: r.varint(), Position: r.varint()}
	s.ToDevice = s.Position - r.varint()
	s.Node, s.Ephemeral, s.Device = uint32(r.uvarint()), r.uvarint(), uint32(r.uvarint())
	if len(r.b) > 0 {
		s.Generation, s.Connection = r.varint(), uint32(r.uvarint())
	}
	if r.bad {
		return StreamToken{}, mxerror.InvalidParam.With("this is no sync token")
	}
	return s, nil
}

// Position opens a token of /sync down to its position, for /keys/changes. A token of an earlier epoch stands for the beginning: everything may
// have changed.
func (k *Tokens) Position(_ context.Context, t *tenant.Tenant, token string) (int64, error) {
	s, err := k.OpenStream(t.ID, token)
	if err != nil || s.Epoch != t.Epoch {
		return 0, err
	}
	return s.Position, nil
}

// Mark seals a single position, for lists that page through the stream.
func (k *Tokens) Mark(t tenant.ID, position int64) string {
	return k.seal(t, markToken, binary.AppendVarint(nil, position))
}

// OpenMark opens what Mark sealed; M_INVALID_PARAM for anything else.
func (k *Tokens) OpenMark(t tenant.ID, token string) (int64, error) {
	kind, b, ok := k.open(t, token)
	r := reader{b: b}
	position := r.varint()
	if !ok || kind != markToken || r.bad {
		return 0, mxerror.InvalidParam.With("this is no token of this endpoint")
	}
	return position, nil
}

func (k *Tokens) openPlace(b []byte) (Place, bool) {
	r := reader{b: b}
	p := Place{Cursor: room.Cursor{Topological: r.varint(), Arrival: r.varint()}, After: r.varint(), UpTo: r.varint()}
	return p, !r.bad
}

// reader takes numbers off a token's content.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) varint() int64 {
	v, n := binary.Varint(r.b)
	if n <= 0 {
		r.bad = true
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.bad = true
		return 0
	}
	r.b = r.b[n:]
	return v
}

// bound is what a token is sealed together with: its kind and the tenant.
func bound(t tenant.ID, kind byte) []byte {
	return binary.BigEndian.AppendUint64([]byte{kind}, uint64(t))
}

func (k *Tokens) seal(t tenant.ID, kind byte, plain []byte) string {
	to := bound(t, kind)
	mac := hmac.New(sha256.New, k.nonce)
	mac.Write(to)
	mac.Write(plain)
	nonce := mac.Sum(nil)[:k.aead.NonceSize()]
	return string(kind) + base64.RawURLEncoding.EncodeToString(k.aead.Seal(nonce, nonce, plain, to))
}

func (k *Tokens) open(t tenant.ID, token string) (kind byte, plain []byte, ok bool) {
	if len(token) < 2 || len(token) > 256 {
		return 0, nil, false
	}
	raw, err := base64.RawURLEncoding.DecodeString(token[1:])
	if err != nil || len(raw) < k.aead.NonceSize() {
		return 0, nil, false
	}
	n := k.aead.NonceSize()
	plain, err = k.aead.Open(nil, raw[:n], raw[n:], bound(t, token[0]))
	return token[0], plain, err == nil
}
