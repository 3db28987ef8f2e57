// SPDX-License-Identifier: Apache-2.0

package account

import (
	"bytes"
	"context"
	"html/template"
	"net/http"
	"net/url"
	"strings"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// The fallback pages (client-server API, "Fallback"): a client that does not know a stage opens its page in a browser and goes on with the session
// alone when the page says that it is done. They work without scripts but for telling the client.
var fallbackPage = template.Must(template.New("fallback").Parse(`<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>{{.Title}}</title>
<style>body{font:1rem/1.5 system-ui,sans-serif;max-width:26rem;margin:3rem auto;padding:0 1rem}label,input,button{display:block;width:100%;box-sizing:border-box;font:inherit;margin:.5rem 0}input,button{padding:.6rem}[role=alert]{color:#a00}</style></head>
<body><main><h1>{{.Title}}</h1>
{{with .Problem}}<p role="alert">{{.}}</p>{{end}}
{{if .Done}}<p>{{.Text}}</p>
<script>if(window.onAuthDone){window.onAuthDone()}else if(window.opener&&window.opener.postMessage){window.opener.postMessage("authDone","*")}</script>
{{else}}<p>{{.Text}}</p><form method="post"><input type="hidden" name="session" value="{{.Session}}">
{{with .Field}}<label for="value">{{.}}</label><input id="value" name="value" type="{{$.Input}}" required autofocus autocomplete="{{$.Complete}}">{{end}}
<button type="submit">Continue</button></form>{{end}}
</main></body></html>
`))

// fallbackView is what a page shows.
type fallbackView struct {
	Title, Text, Problem, Session, Field, Input, Complete string
	Done                                                  bool
}

func page(status int, v fallbackView) (any, error) {
	var b bytes.Buffer
	if err := fallbackPage.Execute(&b, v); err != nil {
		return nil, err
	}
	return &httpapi.Reply{Status: status, Body: b.Bytes(), Header: http.Header{
		"Content-Type":            {"text/html; charset=utf-8"},
		"Content-Security-Policy": {"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; form-action 'self'; base-uri 'none'"},
		"Referrer-Policy":         {"no-referrer"},
		"Cache-Control":           {"no-store"},
	}}, nil
}

// stageView describes the page of a stage; ok is false for stages without one.
func stageView(stage, session string) (v fallbackView, ok bool) {
	v = fallbackView{Title: "Sign in", Session: session}
	switch stage {
	case loginDummy:
		v.Text = "Continue to confirm that you are there."
	case stageToken:
		v.Title, v.Text, v.Field, v.Input, v.Complete = "Registration token", "This server wants a token from whoever registers.", "Token", "text", "off"
	case loginPassword:
		v.Title, v.Text, v.Field, v.Input, v.Complete = "Confirm that it is you", "Enter the password of your account.", "Password", "password", "current-password"
	default:
		return v, false
	}
	return v, true
}

// fallback shows the page of a stage, and takes what its form sends.
func (s *Service) fallback(ctx context.Context, r *httpapi.Request) (any, error) {
	form := r.Values()
	if r.HTTP.Method == http.MethodPost {
		sent, err := url.ParseQuery(string(r.Body))
		if err != nil {
			return nil, mxerror.InvalidParam.With("the form is not readable")
		}
		if sent.Get("session") == "" {
			sent.Set("session", form.Get("session"))
		}
		form = sent
	}
	session := form.Get("session")
	if session == "" {
		return nil, mxerror.MissingParam.With("session is missing")
	}
	stage := r.Var("authType")
	view, ok := stageView(stage, session)
	if !ok && stage != loginSSO {
		return nil, mxerror.NotFound.With("there is no page for this stage")
	}
	kept, purpose, err := s.openSession(ctx, r.Tenant.ID, session)
	if err != nil {
		return nil, err
	}
	if _, done := kept.completed[stage]; !done {
		if stage == loginSSO {
			return s.ssoFallback(r, session)
		}
		if r.HTTP.Method != http.MethodPost {
			return page(200, view)
		}
		proven, err := s.fallbackCheck(ctx, r, stage, purpose, form.Get("value"))
		if mx := mxerror.From(err); mx != nil && mx.Status < 500 {
			view.Problem = mx.Message
			return page(mx.Status, view)
		}
		if err != nil {
			return nil, err
		}
		kept.completed[stage] = proven
		if err := s.noteStages(ctx, r.Tenant.ID, session, kept.completed); err != nil {
			return nil, err
		}
	}
	return page(200, fallbackView{Title: "Thank you", Text: "You may now close this window and return to the application.", Done: true})
}

// fallbackCheck is the stage's check with the one value of the page. A password must be that of the user who began the session.
func (s *Service) fallbackCheck(ctx context.Context, r *httpapi.Request, stage, purpose, value string) (string, error) {
	switch stage {
	case stageToken:
		return value, s.checkRegistrationToken(ctx, r.Tenant.ID, value)
	case loginPassword:
		user, _, found := strings.Cut(purpose, " ")
		if !found || !strings.HasPrefix(user, "@") {
			return "", mxerror.Forbidden.With("this session names no account")
		}
		a, err := s.CheckPassword(ctx, r.Tenant, user, value)
		if err != nil {
			return "", err
		}
		return string(a.User), nil
	}
	return "", nil
}
