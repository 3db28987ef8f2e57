// SPDX-License-Identifier: Apache-2.0

package fhir_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/konsil-health/konsil/internal/health/fhir"
)

// show writes alternatives as "a&b|c": = exact, ~n fuzzy, ! not, 0 nothing.
func show(all [][]fhir.TextTerm) string {
	var alternatives []string
	for _, terms := range all {
		var parts []string
		for _, t := range terms {
			s := t.Text
			switch t.Kind {
			case fhir.WordExact:
				s = "=" + s
			case fhir.WordFuzzy:
				s = fmt.Sprintf("~%d%s", t.Distance, s)
			case fhir.Nothing:
				s = "0"
			}
			if t.Not {
				s = "!" + s
			}
			parts = append(parts, s)
		}
		alternatives = append(alternatives, strings.Join(parts, "&"))
	}
	return strings.Join(alternatives, "|")
}

func TestParseText(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		value   string
		complex bool
		want    string
	}{
		{"Karl-Marx-Straße, Berlin", false, "Karl&Marx&Straße&Berlin"},
		{"", false, ""},
		{`Berlin "Organisation 1-2"`, true, `=Berlin&=Organisation 1-2`},
		{`Berlin+Mitte`, true, "Berlin&Mitte"},
		{`"1-2","1-3"`, true, "=1-2|=1-3"},
		{`"1-2" | "1-3"`, true, "=1-2|=1-3"},
		{`"a,b"`, true, "=a|=b"},
		{`Niedersachsen -Hannover`, true, "Niedersachsen&!Hannover"},
		{`-"a b"`, true, "!=a b"},
		{`Coppenbruegge~`, true, "~2Coppenbruegge"},
		{`abc~1 d~0`, true, "~1abc&=d"},
		{`Franz*+Wallraf*`, true, "Franz&Wallraf"},
		{`"Aachen"+Wallraf*`, true, "=Aachen&Wallraf"},
		{`"Aachen"+"Wallraf*"`, true, "=Aachen&0"},
		{`Bessinger Str. 42`, true, "Bessinger&0&42"},
		{`Franz-Wallraff`, true, "0"},
		{`"Franz"\+"Wallraff"`, true, "=Franz&=Wallraff"},
		{`"open`, true, "=open"},
	} {
		got, err := fhir.ParseText(c.value, c.complex)
		if err != nil || show(got) != c.want {
			t.Errorf("%q: %q %v, want %q", c.value, show(got), err, c.want)
		}
	}
	if _, err := fhir.ParseText(strings.Repeat("a ", 31), true); err == nil {
		t.Error("31 terms were taken")
	}
}

func FuzzParseText(f *testing.F) {
	f.Add(`"a b"|c -d~2,e*`, true)
	f.Fuzz(func(t *testing.T, value string, complexForm bool) {
		_, _ = fhir.ParseText(value, complexForm)
	})
}
