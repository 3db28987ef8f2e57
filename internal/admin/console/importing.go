// SPDX-License-Identifier: Apache-2.0

package console

import (
	"encoding/csv"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// maxRows is how many people one file may bring.
const maxRows = 1000

// row is one person of a file, with the key of what is wrong with it.
type row struct {
	Line               int
	Login, Name, Wrong string
}

// readPeople reads a file with the columns login and name, comma or semicolon between them, with or without a line of headings, as people write them or
// as the export does. What cannot be read at all is an error; what is wrong with one line stands at it.
func readPeople(file string) ([]row, error) {
	file = strings.TrimPrefix(file, "\ufeff") // spreadsheets write it
	r := csv.NewReader(strings.NewReader(file))
	r.FieldsPerRecord, r.TrimLeadingSpace = -1, true
	if first, _, _ := strings.Cut(file, "\n"); strings.Count(first, ";") > strings.Count(first, ",") {
		r.Comma = ';'
	}
	var rows []row
	seen := map[string]bool{}
	login, name := 0, 1
	for {
		fields, err := r.Read()
		if errors.Is(err, io.EOF) {
			return rows, nil
		}
		if err != nil {
			return nil, err
		}
		line, _ := r.FieldPos(0)
		if line == 1 {
			if l, n, ok := headings(fields); ok {
				login, name = l, n
				continue
			}
		}
		if len(rows) == maxRows {
			return nil, errors.New("more than " + strconv.Itoa(maxRows) + " people")
		}
		p := row{Line: line}
		if max(login, name) >= len(fields) {
			p.Wrong = "row_short"
		} else {
			p.Login, p.Name = strings.ToLower(unguardCell(strings.TrimSpace(fields[login]))), unguardCell(strings.TrimSpace(fields[name]))
			p.Wrong = checkPerson(p.Login, p.Name)
		}
		if p.Wrong == "" && seen[p.Login] {
			p.Wrong = "row_twice"
		}
		seen[p.Login] = true
		rows = append(rows, p)
	}
}

// headings finds the columns by what stands above them.
func headings(fields []string) (login, name int, ok bool) {
	login, name = -1, -1
	for i, f := range fields {
		switch strings.ToLower(strings.TrimSpace(f)) {
		case "login", "anmeldename", "benutzername", "username":
			login = i
		case "name", "anzeigename", "display name":
			name = i
		}
	}
	return login, name, login >= 0 && name >= 0
}

type importData struct {
	Rows []row
	File string // what was read, to be confirmed
	Good int
	Made []newPerson
}

func (s *Service) showImport(v *view) error { return v.show("import", v.session.cookie, importData{}) }

// doImport shows what a file would do, and does it when that is confirmed: the good lines only.
func (s *Service) doImport(v *view) error {
	file, err := v.file()
	if err != nil {
		return err
	}
	d := importData{File: file}
	if d.Rows, err = readPeople(file); err != nil || len(d.Rows) == 0 {
		v.again(http.StatusBadRequest, "file_unreadable")
		if err != nil {
			v.detail = err.Error()
		}
		return v.show("import", v.session.cookie, importData{File: file})
	}
	for i := range d.Rows {
		p := &d.Rows[i]
		if p.Wrong == "" {
			if _, err := s.o.Accounts.ByLogin(v.r.Context(), v.session.tenant, p.Login); err == nil {
				p.Wrong = "login_taken"
			} else if !errors.Is(err, mxerror.NotFound) {
				return err
			}
		}
		if p.Wrong == "" {
			d.Good++
		}
	}
	if v.form("do") != "import" {
		return v.show("import", v.session.cookie, d)
	}
	return s.importRows(v, d)
}

func (s *Service) importRows(v *view, d importData) error {
	for i := range d.Rows {
		p := &d.Rows[i]
		if p.Wrong != "" {
			continue
		}
		made, problem, err := s.add(v.r.Context(), v.session.tenant, p.Login, p.Name)
		if err != nil {
			return err
		}
		if p.Wrong = problem; problem == "" {
			d.Made = append(d.Made, *made)
			if err := v.noted("person_added", string(made.User), made.Login); err != nil {
				return err
			}
		}
	}
	d.File = ""
	return v.show("import", v.session.cookie, d)
}

// file is what was chosen, or pasted.
func (v *view) file() (string, error) {
	if v.r.MultipartForm != nil {
		if f, _, err := v.r.FormFile("file"); err == nil {
			defer f.Close()
			text, err := io.ReadAll(f)
			if err != nil || len(text) > 0 {
				return string(text), err
			}
		}
	}
	return v.r.PostForm.Get("text"), nil
}
