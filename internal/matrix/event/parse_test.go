// SPDX-License-Identifier: Apache-2.0

package event

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
	"github.com/konsil-health/konsil/internal/matrix/roomversion"
	"github.com/konsil-health/konsil/internal/matrix/signing"
)

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	for _, ver := range roomversion.Supported() {
		good := build(t, draft(t, ver, "m.room.message", nil, `{}`)).JSON()
		with := func(name, value string) string { return string(signing.Replace(good, name, []byte(value))) }
		without := func(name string) string { return string(signing.Replace(good, name, nil)) }
		many := func(n int) string {
			ids := make([]string, n)
			for i := range ids {
				ids[i] = fmt.Sprintf(`"$e%d"`, i)
				if ver == "1" || ver == "2" {
					ids[i] = `["$e:x",{"sha256":"abc"}]`
				}
			}
			return "[" + strings.Join(ids, ",") + "]"
		}
		otherRoom := `"!r:x"`
		if ver != "12" {
			otherRoom = `"!r"`
		}
		for _, in := range []string{
			``, `[]`, `null`, `{`, `{}`, `{"a":1,"a":1,` + string(good[1:]),
			without("type"), without("sender"), without("room_id"), without("content"), without("depth"), without("hashes"),
			without("signatures"), without("origin_server_ts"), without("prev_events"), without("auth_events"),
			with("type", "1"), with("sender", "null"), with("sender", `"u:x"`), with("sender", `"@u"`), with("room_id", `"r"`), with("room_id", otherRoom),
			with("state_key", "null"), with("state_key", "1"), with("content", `"x"`), with("content", "[]"), with("depth", `"1"`), with("depth", "-1"),
			with("hashes", "[]"), with("signatures", "[]"), with("signatures", `{"x":1}`), with("signatures", `{"x":{"k":1}}`), with("unsigned", "null"),
			with("origin_server_ts", `"1"`), with("prev_events", "{}"), with("prev_events", "[1]"), with("prev_events", `["x"]`), with("prev_events", `[["x",{}]]`), with("prev_events", `[["$x"]]`), with("prev_events", `[[]]`), with("prev_events", `[["$x",1]]`), with("prev_events", `[["$x",{},1]]`),
			with("prev_events", many(21)), with("auth_events", many(11)),
		} {
			if _, err := Parse(version(t, ver), []byte(in)); !errors.Is(err, mxerror.BadJSON) {
				t.Errorf("%s: %.200s: %v", ver, in, err)
			}
		}
		for _, in := range []string{
			with("type", `"`+strings.Repeat("x", 256)+`"`), with("state_key", `"`+strings.Repeat("ü", 256)+`"`),
			with("sender", `"@`+strings.Repeat("x", 253)+`:x"`), with("room_id", `"!`+strings.Repeat("x", 255)+`"`),
		} {
			if _, err := Parse(version(t, ver), []byte(in)); !errors.Is(err, mxerror.TooLarge) {
				t.Errorf("%s: %.200s: %v", ver, in, err)
			}
		}
		for _, in := range []string{
			with("prev_events", many(20)), with("auth_events", many(10)), with("state_key", `"`+strings.Repeat("x", 255)+`"`), with("origin_server_ts", "-1"),
			with("depth", "9007199254740991"), with("more", `{"x":[1]}`), with("state_key", `""`), " " + strings.ReplaceAll(string(good), ",", ", "),
		} {
			if _, err := Parse(version(t, ver), []byte(in)); err != nil {
				t.Errorf("%s: %.200s: %v", ver, in, err)
			}
		}
		v := version(t, ver)
		for _, number := range []string{"1.5", "-0", "1e3", "9007199254740992"} {
			_, err := Parse(v, []byte(with("x", number)))
			if v.StrictJSON != errors.Is(err, mxerror.BadJSON) || !v.StrictJSON && err != nil {
				t.Errorf("%s: %s: %v", ver, number, err)
			}
		}
		_, err := Parse(v, []byte(with("depth", "9223372036854775807")))
		if v.StrictJSON != errors.Is(err, mxerror.BadJSON) {
			t.Error(ver, "depth", err)
		}
		for _, ids := range []string{`["$x"]`, `[["$x",{}]]`} {
			_, err := Parse(v, []byte(with("auth_events", ids)))
			if pairs := v.EventIDs == roomversion.EventIDInEvent; pairs != (ids[1] == '[') != (err != nil) {
				t.Error(ver, ids, err)
			}
		}
		e, err := Parse(v, []byte(with("type", `"`+strings.Repeat("ü", 200)+`"`)))
		if v.StrictFields != errors.Is(err, mxerror.TooLarge) || !v.StrictFields && e.Oversized() != "type" {
			t.Error(ver, "200 characters of two bytes", err)
		}
		if !v.RedactsInContent {
			if _, err := Parse(version(t, ver), []byte(with("redacts", "1"))); !errors.Is(err, mxerror.BadJSON) {
				t.Error(err)
			}
		}
	}
}

func TestSizes(t *testing.T) {
	t.Parallel()
	for _, ver := range roomversion.Supported() {
		empty := build(t, draft(t, ver, "m.room.message", nil, `{"body":""}`))
		room := MaxSize - len(empty.JSON())
		fits := build(t, draft(t, ver, "m.room.message", nil, `{"body":"`+strings.Repeat("x", room)+`"}`))
		if len(fits.JSON()) != MaxSize {
			t.Fatal(len(fits.JSON()))
		}
		if _, err := Parse(fits.Version(), fits.JSON()); err != nil {
			t.Error(err)
		}
		if _, err := Parse(fits.Version(), append([]byte("  "), fits.JSON()...)); err != nil {
			t.Error("white space does not count", err)
		}
		_, err := draft(t, ver, "m.room.message", nil, `{"body":"`+strings.Repeat("x", room+1)+`"}`).Build("x", "ed25519:1", specKey(t))
		if !errors.Is(err, mxerror.TooLarge) || mxerror.From(err).Status != 413 {
			t.Error(err)
		}
		_, err = Parse(fits.Version(), bytes.Replace(fits.JSON(), []byte(`"body":"x`), []byte(`"body":"xx`), 1))
		if !errors.Is(err, mxerror.TooLarge) {
			t.Error(err)
		}
		if _, err := fits.WithSignature("y", "ed25519:1", specKey(t)); !errors.Is(err, mxerror.TooLarge) {
			t.Error(err)
		}
	}
}

// TestChosenIDs: events of versions 1 and 2 bring their id and the hashes of those they cite.
func TestChosenIDs(t *testing.T) {
	t.Parallel()
	for _, ver := range []string{"1", "2"} {
		d := draft(t, ver, "m.room.message", nil, `{"n":1.50}`)
		e := build(t, d)
		if !strings.HasPrefix(string(e.ID()), "$") || !strings.HasSuffix(string(e.ID()), ":x") || !bytes.Contains(e.JSON(), []byte(`"prev_events":[["$p",{"sha256":"aA"}]]`)) {
			t.Errorf("%s: %s", ver, e.JSON())
		}
		if string(e.Content()) != `{"n":1.50}` {
			t.Errorf("numbers keep their text: %s", e.Content())
		}
		if d.Content = []byte(`{"n":2}`); build(t, d).ID() == e.ID() {
			t.Error("two events with one id")
		}
		d.ID = "$chosen:y"
		chosen := build(t, d)
		if chosen.ID() != "$chosen:y" || chosen.ReferenceHash() == e.ReferenceHash() || !slices.Equal(chosen.RequiredSigners(), []id.Server{"x", "y"}) {
			t.Error(chosen.ID(), chosen.RequiredSigners())
		}
		for _, wrong := range []string{``, `1`, `"x:y"`, `"$x"`, `"$x:"`, `"$x:y z"`, `"$` + strings.Repeat("x", 255) + `:y"`} {
			var value []byte
			if wrong != "" {
				value = []byte(wrong)
			}
			if _, err := Parse(e.Version(), signing.Replace(e.JSON(), "event_id", value)); !errors.Is(err, mxerror.BadJSON) {
				t.Errorf("%s: %v", wrong, err)
			}
		}
		d.Hashes = nil
		if _, err := d.Build("x", "ed25519:1", specKey(t)); err == nil {
			t.Error("built without hashes")
		}
	}
}

// TestEventIDForms: the same hash in the alphabets of versions 3 and 4.
func TestEventIDForms(t *testing.T) {
	t.Parallel()
	slash := false
	for i := range 50 {
		d := draft(t, "3", "m.room.message", nil, fmt.Sprintf(`{"n":%d}`, i))
		three := build(t, d)
		d.Version = version(t, "4")
		four := build(t, d)
		if want := "$" + three.ReferenceHash(); string(three.ID()) != want || strings.NewReplacer("+", "-", "/", "_").Replace(want) != string(four.ID()) {
			t.Errorf("%s and %s", three.ID(), four.ID())
		}
		slash = slash || strings.ContainsAny(string(three.ID()), "/+")
	}
	if !slash {
		t.Error("no id shows the difference")
	}
}
