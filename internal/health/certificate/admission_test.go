// SPDX-License-Identifier: Apache-2.0

package certificate

import (
	"encoding/hex"
	"errors"
	"slices"
	"testing"
)

func TestAdmission(t *testing.T) {
	t.Parallel()
	want := Admission{Items: []string{"Ärztin/Arzt", "Zahnärztin/Zahnarzt"}, Professions: []string{Physician, "1.2.276.0.76.4.31"}, RegistrationNumber: "1-1.58.00000040"}
	der, err := want.build()
	if err != nil {
		t.Fatal(err)
	}
	got, err := parseAdmission(der)
	if err != nil || !slices.Equal(got.Items, want.Items) || !slices.Equal(got.Professions, want.Professions) || got.RegistrationNumber != want.RegistrationNumber {
		t.Errorf("%+v %v", got, err)
	}
	// no OIDs and no number: AdmissionSyntax{ contents{ admissions{ infos{ info{ items{ "A" } } } } } }
	plain, err := hex.DecodeString("300d300b300930073005" + "30030c0141")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := parseAdmission(plain); err != nil || len(got.Items) != 1 || got.Items[0] != "A" || got.RegistrationNumber != "" {
		t.Errorf("%+v %v", got, err)
	}
	for name, text := range map[string]string{
		"empty": "", "not a sequence": "0c0141", "trailing bytes": "300d300b30093007300530030c014100",
		"no infos": "30043002" + "3000", "number is UTF-8": "3010300e300c300a3008" + "30030c0141" + "0c0131",
		"item is a number": "300d300b300930073005" + "3003020101",
	} {
		der, err := hex.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := parseAdmission(der); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %+v %v", name, got, err)
		}
	}
}

func FuzzAdmission(f *testing.F) {
	der, err := Admission{Items: []string{"A"}, Professions: []string{Physician}, RegistrationNumber: "1"}.build()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(der)
	f.Fuzz(func(t *testing.T, der []byte) {
		a, err := parseAdmission(der)
		if err != nil {
			if !errors.Is(err, ErrFormat) {
				t.Error(err)
			}
			return
		}
		if again, err := a.build(); err == nil {
			if b, err := parseAdmission(again); err != nil || b.RegistrationNumber != a.RegistrationNumber || !slices.Equal(a.Professions, b.Professions) {
				t.Errorf("%+v comes back as %+v, %v", a, b, err)
			}
		}
	})
}
