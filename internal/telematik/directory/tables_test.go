// SPDX-License-Identifier: Apache-2.0

package directory_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/konsil-health/konsil/internal/health/fhir"
	"github.com/konsil-health/konsil/internal/telematik/directory"
)

// codeSystem reads a published code system, or skips the test saying what is missing.
func codeSystem(t *testing.T, name string) (url string, codes map[string]string) {
	t.Helper()
	dir := os.Getenv("KONSIL_REFERENCE")
	if dir == "" {
		dir = "../../../../shared/reference"
	}
	text, err := os.ReadFile(filepath.Join(dir, "gematik/vzd-fhir", "CodeSystem-"+name+".json"))
	if err != nil {
		t.Skipf("skipped: no code system %s in the reference data (KONSIL_REFERENCE)", name)
	}
	var system struct {
		URL     string
		Concept []struct{ Code, Display string }
	}
	if err := json.Unmarshal(text, &system); err != nil {
		t.Fatal(err)
	}
	codes = map[string]string{}
	for _, c := range system.Concept {
		codes[c.Code] = c.Display
	}
	return system.URL, codes
}

// TestTables holds our tables equal to the published ones.
func TestTables(t *testing.T) {
	t.Parallel()
	url, specialties := codeSystem(t, "aerztliche-fachrichtungen-oid-url")
	if url != fhir.SystemSpecialty {
		t.Errorf("system of the specialties: %s", url)
	}
	for _, s := range directory.Specialties {
		if specialties[s.Code] != s.Display {
			t.Errorf("%s is %q, not %q", s.Code, specialties[s.Code], s.Display)
		}
	}
	url, kinds := codeSystem(t, "EndpointDirectoryConnectionType")
	if url != fhir.SystemConnectionType || len(kinds) != len(fhir.ConnectionTypes) {
		t.Errorf("connection types: %s, %d instead of %d", url, len(fhir.ConnectionTypes), len(kinds))
	}
	for _, code := range fhir.ConnectionTypes {
		if kinds[code] == "" {
			t.Errorf("connection type %s is not published", code)
		}
	}
	for name, want := range map[string]string{"EndpointDirectoryPayloadType": fhir.SystemPayloadType, "EndpointVisibilityCS": fhir.SystemEndpointVisibility, "Origin": fhir.SystemOrigin} {
		if url, _ := codeSystem(t, name); url != want {
			t.Errorf("%s is %s, not %s", name, want, url)
		}
	}
}
