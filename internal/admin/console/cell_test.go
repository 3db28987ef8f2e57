// SPDX-License-Identifier: Apache-2.0

package console

import (
	"archive/zip"
	"bytes"
	"encoding/csv"
	"io"
	"slices"
	"testing"
)

// exported is what a table of names comes out as.
func exported(t *testing.T, names []string) string {
	t.Helper()
	var out bytes.Buffer
	z := zip.NewWriter(&out)
	if err := table(z, "people.csv", []string{"login", "name"}, len(names), func(i int) []string { return []string{"p" + string(rune('a'+i)), names[i]} }); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	r, err := zip.NewReader(bytes.NewReader(out.Bytes()), int64(out.Len()))
	if err != nil {
		t.Fatal(err)
	}
	f, err := r.Open("people.csv")
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestCells: no exported cell is a formula for a spreadsheet, and what was exported is imported as it was.
func TestCells(t *testing.T) {
	t.Parallel()
	names := []string{"Anna", "=HYPERLINK(\"https://x.example\";\"Klick\")", "+49 30 1", "-1+1", "@SUM(A1)", "\t=1", "\r=1", "'=1", "''@x", "'t Hooft", "Weber, Anna; geb. Voß", "=1\n=2"}
	file := exported(t, names)
	rows, err := csv.NewReader(bytes.NewBufferString(file)).ReadAll()
	if err != nil || len(rows) != len(names)+1 {
		t.Fatalf("%d rows, %v", len(rows), err)
	}
	for _, row := range rows {
		for _, cell := range row {
			if cell != "" && slices.Contains([]byte("=+-@\t\r"), cell[0]) {
				t.Errorf("a formula: %q", cell)
			}
		}
	}
	people, err := readPeople(file)
	if err != nil || len(people) != len(names) {
		t.Fatalf("%+v %v", people, err)
	}
	for i, p := range people {
		if p.Name != names[i] {
			t.Errorf("%q came back as %q", names[i], p.Name)
		}
	}
}
