// SPDX-License-Identifier: Apache-2.0

package spectest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// exchange is a request with its answer.
type exchange struct {
	method, path string
	query        url.Values
	request      []byte
	wholeRequest bool // request is all that was sent
	status       int
	contentType  string
	answer       []byte
}

// check says what is wrong with an exchange, nil for one that the specification does not describe. A path that it describes twice must fit once.
func (s *spec) check(x exchange) error {
	path := x.path
	if rest, ok := strings.CutPrefix(path, "/_matrix/client/r0/"); ok {
		path = "/_matrix/client/v3/" + rest
	}
	var first error
	for _, o := range s.find(x.method, path) {
		err := s.checkRequest(o, x)
		if exceptions[o.name()] == "" && !changesShape(x) {
			err = errors.Join(err, s.checkAnswer(o, x))
		}
		if err == nil {
			return nil
		}
		if first == nil {
			first = fmt.Errorf("%s (%d): %w", o.name(), x.status, err)
		}
	}
	return first
}

// checkDocument is check for a file whose errors are its own, often one "default" for all.
func (s *spec) checkDocument(x exchange) error {
	for _, o := range s.find(x.method, x.path) {
		err := s.checkRequest(o, x)
		responses, _ := o.node["responses"].(map[string]any)
		status := strconv.Itoa(x.status)
		if responses[status] == nil && x.status >= 400 {
			status = "default"
		}
		response, pointer := o.resolve(responses[status], append(slices.Clone(o.pointer), "responses", status))
		if response == nil {
			return errors.Join(err, fmt.Errorf("%s: the document knows no status %d here", o.name(), x.status))
		}
		if at(response, "content", "application/json", "schema") != nil {
			err = errors.Join(err, s.checkBody(o, x, append(slices.Clone(pointer), "content", "application/json", "schema")))
		}
		if err != nil {
			return fmt.Errorf("%s (%d): %w", o.name(), x.status, err)
		}
	}
	return nil
}

// checkBody checks an answer by the schema at a place.
func (s *spec) checkBody(o *operation, x exchange, pointer []string) error {
	if err := isJSON(x); err != nil {
		return err
	}
	v, err := decode(x.answer)
	if err != nil {
		return fmt.Errorf("the answer is no JSON: %w", err)
	}
	schema, err := s.schema(o, pointer)
	if err == nil {
		err = schema.Validate(v)
	}
	if err != nil {
		return fmt.Errorf("answer: %w\nin %.2000s", err, x.answer)
	}
	return nil
}

// changesShape says whether the request asked for an answer that the schemas do not describe.
func changesShape(x exchange) bool {
	if x.query.Has("org.matrix.msc4140.delay") {
		return true // a delay_id instead of an event_id
	}
	if strings.HasSuffix(x.path, "/voip/turnServer") && string(x.answer) == "{}" {
		return true // what everybody says where there is no such server
	}
	filter := x.query.Get("filter") // event_fields and event_format change events; a stored filter may hold them
	return strings.HasSuffix(x.path, "/sync") && filter != "" && (filter[0] != '{' || strings.Contains(filter, "event_f"))
}

func (s *spec) checkAnswer(o *operation, x exchange) error {
	responses, _ := o.node["responses"].(map[string]any)
	status := strconv.Itoa(x.status)
	if x.status == http.StatusPartialContent { // HTTP's own, of what is answered with 200 as a whole
		status = "200"
	}
	response, pointer := o.resolve(responses[status], append(slices.Clone(o.pointer), "responses", status))
	if response == nil {
		if x.status < 400 {
			return errors.New("the specification knows no such status here")
		}
		return standardError(x)
	}
	content, _ := response["content"].(map[string]any)
	media, _ := content["application/json"].(map[string]any)
	if media["schema"] == nil {
		if x.status >= 400 && x.status != 404 {
			return standardError(x)
		}
		return nil
	}
	if err := isJSON(x); err != nil {
		return err
	}
	v, err := decode(x.answer)
	if err != nil {
		return fmt.Errorf("the answer is no JSON: %w", err)
	}
	schema, err := s.schema(o, append(slices.Clone(pointer), "content", "application/json", "schema"))
	if err != nil {
		return present(err)
	}
	err = schema.Validate(v)
	if err != nil && x.status >= 400 && standardError(x) == nil {
		return nil // 401 describes the flows only, or another error than this one
	}
	if err != nil {
		return fmt.Errorf("answer: %w\nin %.2000s", err, x.answer)
	}
	return nil
}

// present forgives that the reference data lacks a file: the identity service's definitions, which we do not serve.
func present(err error) error {
	var missing *jsonschema.LoadURLError
	if errors.As(err, &missing) && errors.Is(missing.Err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func isJSON(x exchange) error {
	if kind, _, err := mime.ParseMediaType(x.contentType); err != nil || kind != "application/json" {
		return fmt.Errorf("the answer's type is %q", x.contentType)
	}
	return nil
}

// standardError checks the shape that all errors have (client-server API, standard error response).
func standardError(x exchange) error {
	if len(x.answer) == 0 && x.status == 404 {
		return nil // an unknown host learns nothing
	}
	var e struct {
		Code  string            `json:"errcode"`
		Error string            `json:"error"`
		Flows []json.RawMessage `json:"flows"`
	}
	err := json.Unmarshal(x.answer, &e)
	if err == nil && x.status == 401 && e.Flows != nil {
		return nil // user-interactive authentication, also where the operation does not show it
	}
	if err != nil || e.Code == "" || e.Error == "" {
		return fmt.Errorf("no standard error: %.300q", x.answer)
	}
	return isJSON(x)
}

// checkRequest looks at what was accepted: parameters and body must be such as the specification allows.
func (s *spec) checkRequest(o *operation, x exchange) error {
	if x.status >= 300 || loose[o.name()] != "" {
		return nil
	}
	if err := s.checkParameters(o, x); err != nil {
		return err
	}
	body, pointer := o.resolve(o.node["requestBody"], append(slices.Clone(o.pointer), "requestBody"))
	media, _ := at(body, "content", "application/json").(map[string]any)
	if media["schema"] == nil || !x.wholeRequest {
		return nil
	}
	if len(bytes.TrimSpace(x.request)) == 0 {
		return nil // our clients leave empty bodies away
	}
	v, err := decode(x.request)
	if err != nil {
		return fmt.Errorf("a body that is no JSON was accepted: %w", err)
	}
	schema, err := s.schema(o, append(slices.Clone(pointer), "content", "application/json", "schema"))
	if err != nil {
		return present(err)
	}
	if err = schema.Validate(v); err != nil {
		err = schema.Validate(withoutNulls(v))
	}
	if err != nil {
		return fmt.Errorf("accepted request: %w\nin %.1000s", err, x.request)
	}
	return nil
}

// withoutNulls leaves out what is null: many clients send it for a field that they do not set, and everybody takes it so.
func withoutNulls(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			if e == nil {
				delete(v, k)
				continue
			}
			v[k] = withoutNulls(e)
		}
	case []any:
		for i, e := range v {
			v[i] = withoutNulls(e)
		}
	}
	return v
}

// checkParameters looks at the query.
func (s *spec) checkParameters(o *operation, x exchange) error {
	list, _ := o.node["parameters"].([]any)
	for i, p := range list {
		parameter, pointer := o.resolve(p, append(slices.Clone(o.pointer), "parameters", strconv.Itoa(i)))
		name, _ := parameter["name"].(string)
		if parameter["in"] != "query" {
			continue
		}
		values, given := x.query[name]
		if !given {
			if parameter["required"] == true {
				return fmt.Errorf("accepted without the parameter %s", name)
			}
			continue
		}
		if parameter["schema"] == nil {
			continue
		}
		schema, err := s.schema(o, append(slices.Clone(pointer), "schema"))
		if err != nil {
			return err
		}
		kind, _ := at(parameter, "schema", "type").(string)
		if err := schema.Validate(typed(kind, values)); err != nil {
			return fmt.Errorf("accepted parameter %s=%q: %w", name, values, err)
		}
	}
	return nil
}

// typed reads a parameter's text as its schema's type.
func typed(kind string, values []string) any {
	text := values[0]
	switch kind {
	case "integer", "number":
		return json.Number(text)
	case "boolean":
		if b, err := strconv.ParseBool(text); err == nil {
			return b
		}
	case "array":
		list := make([]any, len(values))
		for i, v := range values {
			list[i] = v
		}
		return list
	}
	return text
}

func decode(text []byte) (any, error) { return jsonschema.UnmarshalJSON(bytes.NewReader(text)) }
