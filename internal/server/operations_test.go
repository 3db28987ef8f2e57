// SPDX-License-Identifier: Apache-2.0

package server

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/konsil-health/konsil/internal/foundation/config"
	"github.com/konsil-health/konsil/internal/foundation/httpapi/spectest"
)

// notServed are the operations of the directory's published files that the central services do not have, and why.
var notServed = map[string]string{
	"GET /certificates/":                   "the directory keeps no cards' certificates: they are looked at when somebody proves to be the holder",
	"GET /certificates/Certificates":       "the directory keeps no cards' certificates: they are looked at when somebody proves to be the holder",
	"GET /holder-authenticate":             "not built: card issuers and associations write nothing here, their entries are imported",
	"POST /owner-auth-certificate-hash":    "for the operator of the real directory: it names a file on its own server",
	"GET /PersonInstitutionLink/":          "not built: links of people and institutions",
	"GET /PersonInstitutionLink/Link":      "not built: links of people and institutions",
	"POST /PersonInstitutionLink/Link":     "not built: links of people and institutions",
	"PUT /PersonInstitutionLink/Link/x":    "not built: links of people and institutions",
	"DELETE /PersonInstitutionLink/Link/x": "not built: links of people and institutions",
	"GET /":                                "I_FHIR_VZD_token_FD is served by others than the directory, at an address of their own",
}

// published reads the operations of gematik's files for the directory, as method and path with every variable an x.
func published(t *testing.T) []string {
	t.Helper()
	dir, err := spectest.Folder()
	if err != nil {
		t.Skip("skipped: ", err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "..", "..", "gematik", "vzd-openapi", "*.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var api struct {
			Servers []struct{ URL string }
			Paths   map[string]map[string]yaml.Node
		}
		if err := yaml.Unmarshal(text, &api); err != nil || len(api.Servers) == 0 {
			t.Fatal(file, err)
		}
		at, err := url.Parse(strings.ReplaceAll(strings.ReplaceAll(api.Servers[0].URL, "{protocol}", "https"), "{hostname}", "vzd.test"))
		if err != nil {
			t.Fatal(file, err)
		}
		for path, methods := range api.Paths {
			segments := strings.Split(path, "/")
			for i, s := range segments {
				if strings.HasPrefix(s, "{") {
					segments[i] = "x"
				}
			}
			for method := range methods {
				if slices.Contains([]string{"get", "put", "post", "delete", "patch"}, method) {
					all = append(all, strings.ToUpper(method)+" "+strings.TrimSuffix(at.Path, "/")+strings.Join(segments, "/"))
				}
			}
		}
	}
	return all
}

// TestDirectoryOperations: every operation of the files that gematik publishes for the directory is served where they say, or listed with a reason.
func TestDirectoryOperations(t *testing.T) {
	t.Parallel()
	operations := published(t)
	c, err := config.Load(config.Source{Environ: []string{}, Text: fmt.Appendf(nil, `data: %q
roles: [directory, federation_list]
listeners: {central: ["127.0.0.1:0"]}
central: {url: "http://127.0.0.1:9", providers: [{name: A, token: a-token-of-provider-a}]}
`, t.TempDir())})
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(t.Context(), c, Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	for _, operation := range operations {
		method, path, _ := strings.Cut(operation, " ")
		w := httptest.NewRecorder()
		s.node.central.handler.ServeHTTP(w, httptest.NewRequest(method, path, nil))
		// What the table of routes does not know it refuses in plain text; the interfaces refuse in JSON or lead to the sign-in.
		unknown := (w.Code == http.StatusNotFound || w.Code == http.StatusMethodNotAllowed) && strings.HasPrefix(w.Header().Get("Content-Type"), "text/plain")
		if reason, listed := notServed[operation]; unknown != listed || listed && reason == "" {
			t.Errorf("%s: %d %s; served %v, listed as not served %v", operation, w.Code, w.Body, !unknown, listed)
		}
	}
	for operation := range notServed {
		if !slices.Contains(operations, operation) {
			t.Errorf("%s is in no file", operation)
		}
	}
	if len(operations) != len(slices.Compact(slices.Sorted(slices.Values(operations)))) {
		t.Error("an operation is published twice")
	}
}
