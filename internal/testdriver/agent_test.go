// SPDX-License-Identifier: Apache-2.0

//go:build goolm

package testdriver_test

import (
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/konsil-health/konsil/internal/testdriver"
)

var clientAgent = testdriver.Agent{ProductType: "1.2.0", Product: "0.1", OS: "Linux", OSVersion: "6.1", ClientID: "konsil"}

var agentForm = regexp.MustCompile(`^1\.2\.0,0\.1,(Messenger|Org-Admin)-Client,stationaer,Linux,6\.1,konsil$`)

// named fails the test for every request to homeserver, directory or registration service that does not carry the client's name.
type named struct {
	t testing.TB
	*http.Transport
}

// RoundTrip implements http.RoundTripper.
func (n *named) RoundTrip(r *http.Request) (*http.Response, error) {
	if !agentForm.MatchString(r.UserAgent()) {
		n.t.Errorf("%s %s comes from %q", r.Method, r.URL.Path, r.UserAgent())
	}
	return n.Transport.RoundTrip(r)
}

// TestAgent: a client tells its name in seven fields, the kind of client among them, whatever stands in the others.
//
// Requirements: A_23104-01.
func TestAgent(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var agents []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		agents = append(agents, r.UserAgent())
		http.Error(w, `{"errcode":"M_FORBIDDEN","error":"no"}`, http.StatusForbidden)
	}))
	t.Cleanup(server.Close)
	agent := clientAgent
	agent.Product = "0.1,beta"
	for _, c := range []struct {
		can  testdriver.Capabilities
		want string
	}{
		{testdriver.Capabilities{Messages: true, Pro: true}, "1.2.0,0.1 beta,Messenger-Client,stationaer,Linux,6.1,konsil"},
		{testdriver.Capabilities{Messages: true, Organization: true}, "1.2.0,0.1 beta,Messenger-Client,stationaer,Linux,6.1,konsil"},
		{testdriver.Capabilities{Organization: true}, "1.2.0,0.1 beta,Org-Admin-Client,stationaer,Linux,6.1,konsil"},
	} {
		d := testdriver.New(testdriver.Options{Capabilities: c.can, Homeserver: "praxis.test", URL: server.URL, Directory: server.URL,
			Accounts: []testdriver.Account{{User: "@anna:praxis.test", Password: "x"}}, Agent: agent})
		w := httptest.NewRecorder()
		d.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/devices/1/login", strings.NewReader("{}")))
		d.Close()
		mu.Lock()
		if w.Code != http.StatusForbidden || len(agents) == 0 || slices.ContainsFunc(agents, func(a string) bool { return a != c.want }) {
			t.Errorf("%d, asked as %q, want %q", w.Code, agents, c.want)
		}
		agents = nil
		mu.Unlock()
	}
}
