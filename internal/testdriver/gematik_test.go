// SPDX-License-Identifier: Apache-2.0

//go:build goolm

package testdriver_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/cucumber/godog"
)

var (
	write = flag.Bool("write-gematik", false, "write docs/gematik-v3.md from this run")
	only  = flag.String("scenarios", "", "run the scenarios whose id begins so; the document is not compared then")
)

// testsuite is the folder of gematik's files.
func testsuite() string {
	dir := os.Getenv("KONSIL_REFERENCE")
	if dir == "" {
		dir = filepath.Join("..", "..", "..", "shared", "reference")
	}
	folder, err := filepath.Abs(filepath.Join(dir, "gematik", "testsuite"))
	if err != nil {
		return "" // there is no working directory; nothing is found there
	}
	return folder
}

// TestGematik runs gematik's scenario files for release V3 as they are, each step over the published interface of the test driver, against two
// providers, an insurer, the directory and the federation list. docs/gematik-v3.md says how each scenario ends: what is written there must be so.
//
// Requirements: A_23104-01.
func TestGematik(t *testing.T) {
	folder := filepath.Join(testsuite(), "features-V3")
	if _, err := os.Stat(folder); err != nil {
		t.Skipf("gematik's scenario files are not here: set KONSIL_REFERENCE to the folder of reference data (%v)", err)
	}
	c := bootCountry(t, filepath.Join(testsuite(), "TiMessengerTestTreiber.openapi.yaml"))
	files, err := readFeatures(folder, c.apis)
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 70 {
		t.Fatalf("only %d files", len(files))
	}
	results := c.run(t, files)
	report(t, files, results)
}

// outcomes are the errors of a scenario's runs by its id.
type outcomes map[string][]error

// run lets godog play all scenarios.
func (c *country) run(t *testing.T, files []scenarioFile) outcomes {
	t.Helper()
	var mu sync.Mutex
	results := outcomes{}
	var out bytes.Buffer
	var features []godog.Feature
	for _, f := range files {
		if slices.ContainsFunc(f.scenarios, func(s scenario) bool { return strings.HasPrefix(s.id, *only) && known[s.id] == "" }) {
			features = append(features, godog.Feature{Name: f.name, Contents: f.text})
		}
	}
	suite := godog.TestSuite{Name: "gematik V3", Options: &godog.Options{Format: "progress", Output: &out, NoColors: true, Strict: true, FeatureContents: features, DefaultContext: t.Context()},
		ScenarioInitializer: func(sc *godog.ScenarioContext) {
			chosen := true
			sc.Before(func(ctx context.Context, s *godog.Scenario) (context.Context, error) {
				id, _ := scenarioID(s.Uri, s.Name)
				chosen = strings.HasPrefix(id, *only) && known[id] == ""
				if !chosen {
					return ctx, godog.ErrSkip
				}
				return ctx, nil
			})
			c.steps(sc)
			sc.After(func(ctx context.Context, s *godog.Scenario, err error) (context.Context, error) {
				id, _ := scenarioID(s.Uri, s.Name)
				mu.Lock()
				defer mu.Unlock()
				if chosen {
					if *only != "" {
						t.Logf("%s: %v", id, err)
					}
					results[id] = append(results[id], err)
				}
				return ctx, nil
			})
		}}
	suite.Run()
	if testing.Verbose() {
		t.Log(out.String())
	}
	return results
}

// earlierKeys is why scenarios with the history visibility "shared" are not run.
const earlierKeys = `gematik has put it off itself (@WIP, "Zurückgestellt"): the invitee would need the keys of messages from before the invitation (MSC4268)`

// known are the scenarios that are not run, each with its reason. The list can only shrink.
var known = map[string]string{
	"Basis 16X.01.11": earlierKeys, "Basis 16X.01.12": earlierKeys, "Basis 16X.05.07": earlierKeys, "Basis 16X.06.07": earlierKeys, "Basis 16X.09.03": earlierKeys,
}

// report compares the outcome with what is known and with the document.
func report(t *testing.T, files []scenarioFile, results outcomes) {
	t.Helper()
	var b strings.Builder
	b.WriteString(documentHead)
	counts := map[string]int{}
	for _, f := range files {
		for _, s := range f.scenarios {
			state := judge(t, s, results[s.id])
			counts[strings.TrimSuffix(strings.Fields(state)[0], ":")]++
			fmt.Fprintf(&b, "| %s | %s | %s |\n", s.id, strings.ReplaceAll(s.title, "|", "/"), state)
		}
	}
	t.Logf("%v", counts)
	if *only != "" {
		return
	}
	name := filepath.Join("..", "..", "docs", "gematik-v3.md")
	if *write {
		if err := os.WriteFile(name, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if text, err := os.ReadFile(name); err != nil || string(text) != b.String() {
		t.Errorf("docs/gematik-v3.md is not what this run gives (%v): go test -tags goolm ./internal/testdriver -run TestGematik -write-gematik", err)
	}
}

// judge says how a scenario has ended, and fails the test where it has not passed.
func judge(t *testing.T, s scenario, runs []error) string {
	t.Helper()
	if !strings.HasPrefix(s.id, *only) {
		return "other"
	}
	if reason := known[s.id]; reason != "" {
		return "skipped: " + reason
	}
	if s.rows == 0 || len(runs) != s.rows {
		t.Errorf("%s: %d runs for %d rows", s.id, len(runs), s.rows)
		return "failing"
	}
	if err := errors.Join(runs...); err != nil {
		t.Errorf("%s: %v", s.id, err)
		return "failing"
	}
	return fmt.Sprintf("passed (%d)", len(runs))
}

const documentHead = `# gematik's scenarios, release V3

<!-- Written by go test -tags goolm ./internal/testdriver -run TestGematik -write-gematik. Do not edit. -->

The 70 files of gematik's test suite for the TI-Messenger run as they are published. Their empty tables of examples are filled from the filters above them:
one row of clients at one homeserver and one over two, as far as a scenario allows both; the number behind "passed" says how many ran. Each step goes over the
test driver's published REST interface (internal/testdriver), whose requests and answers are checked against its OpenAPI file. Administrators are proved to the
directory by the registration service, professionals by their card at the test identity provider. Where a scenario wants gematik's reference
implementation as the sender, the sender is our own client too. After an invitation and a join the run goes on when the other people in the room see it. Who
signs out leaves a dehydrated device with the server (MSC3814), which is what the scenarios with signed-out people are about.

| id | scenario | state |
|---|---|---|
`
