// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/limit"
)

// pieces notes the largest piece that is written.
type pieces struct {
	*httptest.ResponseRecorder
	largest int
}

func (p *pieces) Write(b []byte) (int, error) {
	p.largest = max(p.largest, len(b))
	return p.ResponseRecorder.Write(b)
}

// TestStreamed: an answer of 8 MiB leaves in small pieces and says the same as in memory; one that turns out to be no JSON is cut, not ended.
func TestStreamed(t *testing.T) {
	t.Parallel()
	events := map[string]jsontext.Value{}
	for i := range 8192 {
		events["e"+strconv.Itoa(i)] = jsontext.Value(`{"body":"` + strings.Repeat("x", 1000) + `"}`)
	}
	route := func(path string, body any) Route {
		return Route{Method: "GET", Path: path, Access: Public, Rate: limit.Read, Handle: func(context.Context, *Request) (any, error) {
			return &Reply{Body: body, Streamed: true}, nil
		}}
	}
	g := newRig(t, nil)
	g.Add(route("/large", events), route("/broken", []jsontext.Value{jsontext.Value(`"` + strings.Repeat("x", 100_000) + `"`), jsontext.Value(`{`)}))
	w := &pieces{ResponseRecorder: httptest.NewRecorder()}
	g.ServeHTTP(w, httptest.NewRequest("GET", "http://a.example/large", nil))
	whole, err := json.Marshal(events, encodeOptions)
	if err != nil {
		t.Fatal(err)
	}
	if w.Code != 200 || w.Header().Get("Content-Type") != "application/json" || w.Body.String() != string(whole) {
		t.Errorf("status %d, %v, %d bytes of %d", w.Code, w.Header(), w.Body.Len(), len(whole))
	}
	if w.largest > 64<<10 {
		t.Errorf("a piece of %d bytes", w.largest)
	}

	ask, err := http.NewRequestWithContext(t.Context(), "GET", g.url+"/broken", nil)
	if err != nil {
		t.Fatal(err)
	}
	ask.Host = "a.example"
	res, err := http.DefaultClient.Do(ask)
	if err == nil {
		defer res.Body.Close()
		err = res.Write(&strings.Builder{})
	}
	if err == nil {
		t.Error("a broken answer came as a whole")
	}
	if g.stop(); !strings.Contains(g.log.String(), "encode answer") {
		t.Error("the log does not say what was broken")
	}
}
