// SPDX-License-Identifier: Apache-2.0

package event

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

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
			}
			return "[" + strings.Join(ids, ",") + "]"
		}
		otherRoom := `"!r:x"`
		if ver != "12" {
			otherRoom = `"!r"`
		}
		for _, in := range []string{
			``, `[]`, `null`, `{`, `{}`, with("x", "1.5"), with("x", "-0"), with("x", "9007199254740992"), `{"a":1,"a":1,` + string(good[1:]),
			without("type"), without("sender"), without("room_id"), without("content"), without("depth"), without("hashes"),
			without("signatures"), without("origin_server_ts"), without("prev_events"), without("auth_events"),
			with("type", "1"), with("sender", "null"), with("sender", `"u:x"`), with("sender", `"@u"`), with("room_id", `"r"`), with("room_id", otherRoom),
			with("state_key", "null"), with("state_key", "1"), with("content", `"x"`), with("content", "[]"), with("depth", `"1"`), with("depth", "-1"),
			with("hashes", "[]"), with("signatures", "[]"), with("signatures", `{"x":1}`), with("signatures", `{"x":{"k":1}}`), with("unsigned", "null"),
			with("origin_server_ts", `"1"`), with("prev_events", "{}"), with("prev_events", "[1]"), with("prev_events", `["x"]`), with("prev_events", `[["$x",{}]]`),
			with("prev_events", many(21)), with("auth_events", many(11)),
		} {
			if _, err := Parse(version(t, ver), []byte(in)); !errors.Is(err, mxerror.BadJSON) {
				t.Errorf("%s: %.200s: %v", ver, in, err)
			}
		}
		for _, in := range []string{
			with("type", `"`+strings.Repeat("x", 256)+`"`), with("state_key", `"`+strings.Repeat("ü", 128)+`"`),
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
		if ver == "9" || ver == "10" {
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
