// SPDX-License-Identifier: Apache-2.0

package canonicaljson

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// The specification's examples (appendices, "Canonical JSON", "Examples").
func TestSpecificationExamples(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ in, want string }{
		{`{}`, `{}`},
		{"{\n    \"one\": 1,\n    \"two\": \"Two\"\n}", `{"one":1,"two":"Two"}`},
		{"{\n    \"b\": \"2\",\n    \"a\": \"1\"\n}", `{"a":"1","b":"2"}`},
		{`{"b":"2","a":"1"}`, `{"a":"1","b":"2"}`},
		{`{"auth": {"success": true, "mxid": "@john.doe:example.com", "profile": {"display_name": "John Doe", "three_pids": [{"medium": "email", "address": "john.doe@example.org"}, {"medium": "msisdn", "address": "123456789"}]}}}`,
			`{"auth":{"mxid":"@john.doe:example.com","profile":{"display_name":"John Doe","three_pids":[{"address":"john.doe@example.org","medium":"email"},{"address":"123456789","medium":"msisdn"}]},"success":true}}`},
		{`{"a": "日本語"}`, `{"a":"日本語"}`},
		{`{"本": 2, "日": 1}`, `{"日":1,"本":2}`},
		{`{"a": "\u65E5"}`, `{"a":"日"}`},
		{`{"a": null}`, `{"a":null}`},
	} {
		for name, f := range map[string]func([]byte) ([]byte, error){"strict": Canonical, "lax": CanonicalLax} {
			got, err := f([]byte(c.in))
			if err != nil || string(got) != c.want {
				t.Errorf("%s(%s) = %s, %v, want %s", name, c.in, got, err, c.want)
			}
		}
	}
	// The last example's input is not canonical, so only the lax form takes it.
	got, err := CanonicalLax([]byte(`{"a": -0, "b": 1e10}`))
	if err != nil || string(got) != `{"a":0,"b":10000000000}` {
		t.Errorf("%s, %v", got, err)
	}
}

func TestForms(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ in, want string }{
		{`"\u0000\u0001\b\t\n\f\r\u001f\"\\\/\u007f"`, "\"\\u0000\\u0001\\b\\t\\n\\f\\r\\u001f\\\"\\\\/\x7f\""},
		{`"\uD83D\uDE00"`, `"😀"`},
		{`{"\uD83D\uDE00":1,"\uFFFF":2,"a":3}`, "{\"a\":3,\"\uffff\":2,\"😀\":1}"}, // by code point, not by UTF-16
		{`{"\n":1," ":2,"\\":3,"[":4}`, `{"\n":1," ":2,"[":4,"\\":3}`},
		{`{"b":{"d":1,"c":[{"z":1,"y":2}]},"a":[]}`, `{"a":[],"b":{"c":[{"y":2,"z":1}],"d":1}}`},
		{`9007199254740991`, `9007199254740991`},
		{`-9007199254740991`, `-9007199254740991`},
		{` [ true , false , null , 0 , -1 ] `, `[true,false,null,0,-1]`},
		{`{"":1}`, `{"":1}`},
	} {
		got, err := Canonical([]byte(c.in))
		if err != nil || string(got) != c.want {
			t.Errorf("Canonical(%s) = %s, %v, want %s", c.in, got, err, c.want)
		}
		if again, err := Canonical(got); err != nil || !bytes.Equal(again, got) {
			t.Errorf("not idempotent: %s, %v", again, err)
		}
	}
}

func TestRefused(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]error{
		``: ErrSyntax, ` `: ErrSyntax, `{`: ErrSyntax, `[1,]`: ErrSyntax, `{"a":1,}`: ErrSyntax, `{a:1}`: ErrSyntax,
		`tru`: ErrSyntax, `nul`: ErrSyntax, `01`: ErrSyntax, `-`: ErrSyntax, `1.`: ErrSyntax, `.5`: ErrSyntax, `+1`: ErrSyntax,
		`1e`: ErrSyntax, `NaN`: ErrSyntax, `"a`: ErrSyntax, "\"\n\"": ErrSyntax, `"\x"`: ErrSyntax, `"\u12g4"`: ErrSyntax,
		`"\ud800"`: ErrSyntax, `"\ud800\u0041"`: ErrSyntax, `"\udc00"`: ErrSyntax, "\"\xff\"": ErrSyntax, "\"\\n\xff\"": ErrSyntax,
		`{} {}`: ErrSyntax, `1 2`: ErrSyntax, `["a" "b"]`: ErrSyntax, `{"a" 1}`: ErrSyntax, "\xef\xbb\xbf{}": ErrSyntax, `"\`: ErrSyntax,
		`{"a":1,"a":1}`: ErrForm, `{"a":1,"\u0061":2}`: ErrForm, `{"a":1,"b":2,"a":3}`: ErrForm, `-0`: ErrForm, `1.0`: ErrForm,
		`1e2`: ErrForm, `1E2`: ErrForm, `9007199254740992`: ErrForm, `-9007199254740992`: ErrForm, `10000000000000000000000`: ErrForm,
		strings.Repeat("[", MaxDepth+1) + strings.Repeat("]", MaxDepth+1): ErrSyntax,
	} {
		if got, err := Canonical([]byte(in)); !errors.Is(err, want) {
			t.Errorf("Canonical(%.40q) = %s, %v, want %v", in, got, err, want)
		}
	}
	deep := strings.Repeat("[", MaxDepth) + strings.Repeat("]", MaxDepth)
	if _, err := Canonical([]byte(deep)); err != nil {
		t.Error(err)
	}
}

func TestLax(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		`12345678901234567890123`: `12345678901234567890123`, `1.50`: `1.50`, `1e+16`: `1e+16`, `-0.0`: `-0.0`, `1E3`: `1000`, `-2e2`: `-200`,
	} {
		if got, err := CanonicalLax([]byte(in)); err != nil || string(got) != want {
			t.Errorf("CanonicalLax(%s) = %s, %v, want %s", in, got, err, want)
		}
	}
	if _, err := CanonicalLax([]byte(`{"a":1,"a":1}`)); !errors.Is(err, ErrForm) {
		t.Error(err)
	}
}

func TestMarshal(t *testing.T) {
	t.Parallel()
	got, err := Marshal(map[string]any{"z": 1, "a": []string{"<&>\u2028"}})
	if err != nil || string(got) != "{\"a\":[\"<&>\u2028\"],\"z\":1}" {
		t.Error(string(got), err)
	}
	if _, err := Marshal(1.5); !errors.Is(err, ErrForm) {
		t.Error(err)
	}
	if _, err := Marshal(func() {}); err == nil {
		t.Error("marshalled a function")
	}
}

func TestReading(t *testing.T) {
	t.Parallel()
	obj := []byte(" { \"a\" : {\"b\\n\":[1, \"x]}\" ,{}]} , \"n\":-5,\"s\":\"q\\\"\" } ")
	if got := Get(obj, "a", "b\n"); string(got) != `[1, "x]}" ,{}]` {
		t.Error(string(got))
	}
	var els []string
	for el := range Elements(Get(obj, "a", "b\n")) {
		els = append(els, string(el))
	}
	if strings.Join(els, "|") != `1|"x]}"|{}` {
		t.Error(els)
	}
	if n, ok := Int(Get(obj, "n")); !ok || n != -5 {
		t.Error(n, ok)
	}
	if s := GetString(obj, "s"); s != `q"` {
		t.Error(s)
	}
	if Get(obj, "a", "missing", "deeper") != nil || Get([]byte(`[1]`), "a") != nil || Get(nil, "a") != nil {
		t.Error("found what is not there")
	}
	for _, v := range []string{``, `1.5`, `1e3`, `"1"`, `99999999999999999999`, `true`} {
		if n, ok := Int(jsontext.Value(v)); ok {
			t.Error(v, n)
		}
	}
}

// FuzzCanonical compares with jsontext: same verdict about syntax, same meaning, and one form.
func FuzzCanonical(f *testing.F) {
	for _, s := range []string{`{"b":[1,"\u00e9",null],"a":{"y":-1,"x":true}}`, `"\ud83d\ude00"`, `{"a":1,"a":2}`, `[1e5,-0,1.5]`, "\"\xc3\x28\"", `{"\n":1,"[":2}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		strict, err := Canonical(raw)
		lax, laxErr := CanonicalLax(raw)
		valid := jsontext.Value(raw).IsValid()
		if errors.Is(laxErr, ErrSyntax) && valid && !strings.Contains(laxErr.Error(), "deep") {
			t.Fatalf("jsontext takes %q: %v", raw, laxErr)
		}
		if laxErr == nil && !valid {
			t.Fatalf("jsontext refuses %q", raw)
		}
		if err != nil {
			return
		}
		if laxErr != nil || !bytes.Equal(strict, lax) {
			t.Fatalf("strict %s, lax %s, %v", strict, lax, laxErr)
		}
		if again, err := Canonical(strict); err != nil || !bytes.Equal(again, strict) {
			t.Fatalf("not idempotent: %q, %v", again, err)
		}
		var a, b any
		if json.Unmarshal(raw, &a) != nil || json.Unmarshal(strict, &b) != nil {
			t.Fatalf("%q does not decode", raw)
		}
		x, _ := json.Marshal(a, json.Deterministic(true))
		y, _ := json.Marshal(b, json.Deterministic(true))
		if !bytes.Equal(x, y) {
			t.Fatalf("%q means something else than %q", strict, raw)
		}
	})
}

// FuzzMembers: reading never panics, and agrees with the decoder on valid objects.
func FuzzMembers(f *testing.F) {
	f.Add([]byte(`{"a":1,"b":{"c":[1,2,{"d":"}"}]},"e\n":"x"}`))
	f.Add([]byte(`{"a`))
	f.Add([]byte(`{"a":`))
	f.Add([]byte(`{"a":]`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		got := map[string]string{}
		for name, v := range Members(raw) {
			got[string(name)] = string(v)
			for range Elements(v) {
				continue
			}
			String(v)
			Int(v)
		}
		var want map[string]jsontext.Value
		if json.Unmarshal(raw, &want) != nil || want == nil {
			return
		}
		if len(got) != len(want) {
			t.Fatalf("%q: %v", raw, got)
		}
		for k, v := range want {
			if got[k] != string(v) {
				t.Fatalf("%q: %q = %q, want %q", raw, k, got[k], v)
			}
		}
	})
}

func BenchmarkCanonical(b *testing.B) {
	raw := []byte(`{"auth_events":["$aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","$bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"],"content":{"msgtype":"m.text","body":"Guten Tag, können Sie mich zurückrufen?"},"depth":12,"hashes":{"sha256":"5jM4wQpv6lnBo7CLIghJuHdW+s2CMBJPUOGOC89ncos"},"origin_server_ts":1700000000000,"prev_events":["$ccccccccccccccccccccccccccccccccccccccccccc"],"room_id":"!r:domain","sender":"@u:domain","signatures":{"domain":{"ed25519:1":"KxwGjPSDEtvnFgU00fwFz+l6d2pJM6XBIaMEn81SXPTRl16AqLAYqfIReFGZlHi5KLjAWbOoMszkwsQma+lYAg"}},"type":"m.room.message"}`)
	b.SetBytes(int64(len(raw)))
	for b.Loop() {
		if _, err := Canonical(raw); err != nil {
			b.Fatal(err)
		}
	}
}
