// SPDX-License-Identifier: Apache-2.0

package console

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/konsil-health/konsil/internal/telematik/registration"
)

// sendLink sends the link by KIM. The answer is the same whether the directory knows the organisation or not.
func (s *Service) sendLink(v *view) error {
	language := v.language
	err := s.o.Registration.SendLink(v.r.Context(), v.form("telematik_id"), func(secret string) (subject, message string) {
		subject, _ = text(language, "kim_subject")
		message, _ = text(language, "kim_text")
		return subject, fmt.Sprintf(message, s.o.URL+Prefix+"/register/kim?link="+secret)
	})
	if err != nil {
		return err
	}
	return v.show("kim_sent", "", nil)
}

// linkData is whom a link proves.
type linkData struct{ Name, TelematikID, Link string }

// showLink asks for a click: programs that look into mail open links, and must not use them up.
func (s *Service) showLink(v *view) error {
	link := v.r.URL.Query().Get("link")
	who, err := s.o.Registration.Link(v.r.Context(), link)
	if errors.Is(err, registration.ErrLink) {
		v.again(http.StatusForbidden, "link_gone")
		return s.step(v, nil, registerData{})
	}
	if err != nil {
		return err
	}
	return v.show("kim_link", "", linkData{who.Name, who.TelematikID, link})
}

// takeLink uses the link: the browser goes on as the organisation.
func (s *Service) takeLink(v *view) error {
	if v.slow() {
		v.again(http.StatusTooManyRequests, "too_many")
		return s.step(v, nil, registerData{})
	}
	who, err := s.o.Registration.TakeLink(v.r.Context(), v.form("link"))
	if errors.Is(err, registration.ErrLink) {
		v.again(http.StatusForbidden, "link_gone")
		return s.step(v, nil, registerData{})
	}
	if err != nil {
		return err
	}
	return s.proved(v, who, v.cookie(visitCookie))
}
