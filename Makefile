# Aliases of build.py, for hands that type make.
PYTHON ?= python3

.PHONY: install demo serve test unit doctor

install demo serve test doctor:
	$(PYTHON) build.py $@

unit:
	$(PYTHON) build.py test tests/unit -- -n logical --dist loadfile
