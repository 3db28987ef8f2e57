// SPDX-License-Identifier: Apache-2.0

//go:build goolm

package testdriver_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	gherkin "github.com/cucumber/gherkin/go/v26"
	messages "github.com/cucumber/messages/go/v21"
)

// scenarioFile is one of gematik's files with its empty example tables filled.
type scenarioFile struct {
	name string
	text []byte
	// scenarios are the ids and titles in order; empty those for whose tables no client fits.
	scenarios []scenario
}

// scenario is a line of the document: how it is called, and how many ways there are to run it.
type scenario struct {
	id, title string
	rows      int
}

// scenarioID splits a scenario's name, "05.01.03 Einladung …". The number alone is not enough: the folders Basis, Pro and ePA use some twice.
func scenarioID(file, name string) (id, title string) {
	folder, _, _ := strings.Cut(strings.TrimPrefix(file, "UCs_"), "/")
	number, title, _ := strings.Cut(name, " ")
	return folder + " " + number, strings.TrimSpace(title)
}

// readFeatures reads all files below a folder and fills their tables.
func readFeatures(folder string, apis []*api) ([]scenarioFile, error) {
	names, err := filepath.Glob(filepath.Join(folder, "*", "*.feature.cute"))
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	var all []scenarioFile
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		short := filepath.Base(filepath.Dir(name)) + "/" + strings.TrimSuffix(filepath.Base(name), ".feature.cute")
		f, err := fillTables(short, text, apis)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", short, err)
		}
		all = append(all, f)
	}
	return all, nil
}

// fillTables puts rows below the heads of a file's example tables. Nothing else of the file changes.
func fillTables(name string, text []byte, apis []*api) (scenarioFile, error) {
	f := scenarioFile{name: name}
	n := 0
	document, err := gherkin.ParseGherkinDocumentForLanguage(bytes.NewReader(text), "de", func() string { n++; return fmt.Sprint(n) })
	if err != nil {
		return f, err
	}
	insert := map[int64][]string{} // by line of the table's head
	for _, child := range document.Feature.Children {
		if child.Scenario == nil {
			continue
		}
		s := scenario{}
		s.id, s.title = scenarioID(name, child.Scenario.Name)
		for _, e := range child.Scenario.Examples {
			rows, columns, err := fillTable(e, apis)
			if err != nil {
				return f, fmt.Errorf("%s: %w", s.id, err)
			}
			for _, r := range rows {
				cells := make([]string, len(columns))
				for i, a := range r {
					cells[i] = a.name
				}
				insert[e.TableHeader.Location.Line] = append(insert[e.TableHeader.Location.Line], "      | "+strings.Join(cells, " | ")+" |")
			}
			s.rows += len(rows)
		}
		f.scenarios = append(f.scenarios, s)
	}
	for i, line := range strings.Split(string(text), "\n") {
		f.text = append(f.text, strings.Join(append([]string{line}, insert[int64(i+1)]...), "\n")+"\n"...)
	}
	return f, nil
}

func fillTable(e *messages.Examples, apis []*api) ([]row, []string, error) {
	if e.TableHeader == nil || len(e.TableBody) > 0 {
		return nil, nil, fmt.Errorf("the example table is not empty")
	}
	var tags, columns []string
	for _, t := range e.Tags {
		tags = append(tags, t.Name)
	}
	for _, c := range e.TableHeader.Cells {
		columns = append(columns, c.Value)
	}
	r, err := parseRules(tags)
	if err != nil {
		return nil, nil, err
	}
	return r.fill(columns, apis), columns, nil
}
