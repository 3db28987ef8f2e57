// SPDX-License-Identifier: Apache-2.0

package push

import (
	"context"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
	"github.com/konsil-health/konsil/internal/matrix/pushrule"
)

// Bounds of a user's rules: how many of one kind, how many conditions and actions in one, how long a pattern (bytes).
const (
	maxRules   = 2000
	maxParts   = 50
	maxPattern = 1024
)

func (s *Service) getRules(ctx context.Context, r *httpapi.Request) (any, error) {
	rules, err := s.Rules(ctx, r.Tenant.ID, r.Session.User)
	return stored{rules}, err
}

func (s *Service) getGlobal(ctx context.Context, r *httpapi.Request) (any, error) {
	return s.Rules(ctx, r.Tenant.ID, r.Session.User)
}

// kind reads the kind of the path.
func kind(r *httpapi.Request) (pushrule.Kind, error) {
	k := pushrule.Kind(r.Var("kind"))
	for _, known := range pushrule.Kinds {
		if k == known {
			return k, nil
		}
	}
	return "", mxerror.InvalidParam.With("%q is no kind of push rule", r.Var("kind"))
}

func notFound() error { return mxerror.NotFound.With("The push rule was not found.") }

// rule finds the rule of the path.
func (s *Service) rule(ctx context.Context, r *httpapi.Request) (*pushrule.Rule, error) {
	k, err := kind(r)
	if err != nil {
		return nil, err
	}
	rules, err := s.Rules(ctx, r.Tenant.ID, r.Session.User)
	if err != nil {
		return nil, err
	}
	found := rules.Find(k, r.Var("ruleId"))
	if found == nil {
		return nil, notFound()
	}
	return found, nil
}

func (s *Service) getRule(ctx context.Context, r *httpapi.Request) (any, error) {
	return s.rule(ctx, r)
}

type enabled struct {
	Enabled *bool `json:"enabled"`
}

type actions struct {
	Actions []jsontext.Value `json:"actions"`
}

func (s *Service) getEnabled(ctx context.Context, r *httpapi.Request) (any, error) {
	found, err := s.rule(ctx, r)
	if err != nil {
		return nil, err
	}
	return enabled{&found.Enabled}, nil
}

func (s *Service) getActions(ctx context.Context, r *httpapi.Request) (any, error) {
	found, err := s.rule(ctx, r)
	if err != nil {
		return nil, err
	}
	return actions{found.Actions}, nil
}

// change applies a change to the caller's rules and stores them as account data, whose position tells all of the user's devices.
func (s *Service) change(ctx context.Context, r *httpapi.Request, change func(*pushrule.Ruleset) error) error {
	user := r.Session.User
	return s.o.Accounts.ChangeAccountData(ctx, r.Tenant.ID, user, "", ruleType, func(content jsontext.Value, exists bool) (jsontext.Value, error) {
		rules := readRules(content, exists, user)
		if err := change(&rules); err != nil {
			return nil, err
		}
		return json.Marshal(stored{rules}, json.Deterministic(true), jsontext.AllowInvalidUTF8(true), jsontext.AllowDuplicateNames(true))
	})
}

func (s *Service) putRule(ctx context.Context, r *httpapi.Request) (any, error) {
	k, err := kind(r)
	if err != nil {
		return nil, err
	}
	rule, err := readRule(r, k)
	if err != nil {
		return nil, err
	}
	at := pushrule.Place{Before: r.Query("before"), After: r.Query("after")}
	return nil, s.change(ctx, r, func(rules *pushrule.Ruleset) error {
		if len(*rules.Of(k)) >= maxRules && rules.Find(k, rule.ID) == nil {
			return mxerror.TooLarge.With("there are too many rules of this kind")
		}
		if !rules.Put(k, rule, at) {
			return mxerror.New(400, "M_UNKNOWN", "before/after rule not found: "+at.Before+at.After)
		}
		return nil
	})
}

// readRule reads a rule of the user's own from path and body.
func readRule(r *httpapi.Request, k pushrule.Kind) (pushrule.Rule, error) {
	rule := pushrule.Rule{ID: r.Var("ruleId"), Enabled: true}
	switch {
	case strings.HasPrefix(rule.ID, "."):
		return rule, mxerror.InvalidParam.With("ids of the user's own rules do not begin with a dot")
	case strings.ContainsAny(rule.ID, `/\`):
		return rule, mxerror.InvalidParam.With("ids of rules hold no slashes")
	case len(rule.ID) > maxPattern:
		return rule, mxerror.InvalidParam.With("the rule's id is too long")
	}
	var body struct {
		Actions    []jsontext.Value  `json:"actions"`
		Conditions *[]jsontext.Value `json:"conditions"`
		Pattern    *string           `json:"pattern"`
	}
	if err := r.Decode(&body); err != nil {
		return rule, err
	}
	if body.Actions == nil {
		return rule, mxerror.MissingParam.With("actions is missing")
	}
	var err error
	if rule.Actions, err = checkActions(body.Actions); err != nil {
		return rule, err
	}
	switch k {
	case pushrule.Override, pushrule.Underride:
		rule.Conditions = []jsontext.Value{}
		if body.Conditions != nil {
			rule.Conditions, err = checkConditions(*body.Conditions)
		}
	case pushrule.Content:
		if body.Pattern == nil {
			return rule, mxerror.MissingParam.With("pattern is missing")
		}
		if len(*body.Pattern) > maxPattern {
			return rule, mxerror.InvalidParam.With("the pattern is too long")
		}
		rule.Pattern = body.Pattern
	case pushrule.PostContent:
		return rule, mxerror.InvalidParam.With("rules of the kind postcontent are the server's own")
	case pushrule.Sender:
		if _, parseErr := id.ParseUser(rule.ID); parseErr != nil {
			return rule, mxerror.InvalidParam.With("the id of a sender rule is a user id")
		}
	case pushrule.Room:
		if !strings.HasPrefix(rule.ID, "!") {
			return rule, mxerror.InvalidParam.With("the id of a room rule is a room id")
		}
	}
	return rule, err
}

// checkActions refuses what is neither a name nor a tweak, and drops the historical actions that mean nothing.
func checkActions(list []jsontext.Value) ([]jsontext.Value, error) {
	if len(list) > maxParts {
		return nil, mxerror.InvalidParam.With("there are too many actions")
	}
	out := make([]jsontext.Value, 0, len(list))
	for _, a := range list {
		switch a.Kind() {
		case '"':
			var name string
			if json.Unmarshal(a, &name) != nil {
				return nil, mxerror.BadJSON.With("an action is not valid")
			}
			switch name {
			case "dont_notify", "coalesce":
				continue
			case "notify":
			default:
				return nil, mxerror.InvalidParam.With("%q is no action", name)
			}
		case '{':
			var tweak struct {
				Name *string `json:"set_tweak"`
			}
			if json.Unmarshal(a, &tweak) != nil || tweak.Name == nil {
				return nil, mxerror.InvalidParam.With("an action that is an object sets a tweak")
			}
		default:
			return nil, mxerror.BadJSON.With("an action is a string or an object")
		}
		out = append(out, a.Clone())
	}
	return out, nil
}

func checkConditions(list []jsontext.Value) ([]jsontext.Value, error) {
	if len(list) > maxParts {
		return nil, mxerror.InvalidParam.With("there are too many conditions")
	}
	out := make([]jsontext.Value, 0, len(list))
	for _, raw := range list {
		var c struct {
			Kind    *string `json:"kind"`
			Pattern string  `json:"pattern"`
		}
		if json.Unmarshal(raw, &c) != nil || c.Kind == nil {
			return nil, mxerror.BadJSON.With("a condition is an object with a kind")
		}
		if len(c.Pattern) > maxPattern {
			return nil, mxerror.InvalidParam.With("a pattern is too long")
		}
		out = append(out, raw.Clone())
	}
	return out, nil
}

func (s *Service) deleteRule(ctx context.Context, r *httpapi.Request) (any, error) {
	k, err := kind(r)
	if err != nil {
		return nil, err
	}
	return nil, s.change(ctx, r, func(rules *pushrule.Ruleset) error {
		if !rules.Delete(k, r.Var("ruleId")) {
			return notFound()
		}
		return nil
	})
}

func (s *Service) putEnabled(ctx context.Context, r *httpapi.Request) (any, error) {
	k, err := kind(r)
	if err != nil {
		return nil, err
	}
	var body enabled
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	if body.Enabled == nil {
		return nil, mxerror.MissingParam.With("enabled is missing")
	}
	return nil, s.change(ctx, r, func(rules *pushrule.Ruleset) error {
		found := rules.Find(k, r.Var("ruleId"))
		if found == nil {
			return notFound()
		}
		found.Enabled = *body.Enabled
		return nil
	})
}

func (s *Service) putActions(ctx context.Context, r *httpapi.Request) (any, error) {
	k, err := kind(r)
	if err != nil {
		return nil, err
	}
	var body actions
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	if body.Actions == nil {
		return nil, mxerror.MissingParam.With("actions is missing")
	}
	list, err := checkActions(body.Actions)
	if err != nil {
		return nil, err
	}
	return nil, s.change(ctx, r, func(rules *pushrule.Ruleset) error {
		found := rules.Find(k, r.Var("ruleId"))
		if found == nil {
			return notFound()
		}
		found.Actions = list
		return nil
	})
}
