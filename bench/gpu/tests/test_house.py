import pathlib
import unittest

FOLDER = pathlib.Path(__file__).parents[1]


class HouseTests(unittest.TestCase):
    """The rules of CONTRIBUTING.md, for modules too that need PyTorch or Triton to be imported."""

    def test_every_module_is_valid_python_short_and_says_what_it_is_for(self):
        modules = sorted(FOLDER.rglob("*.py"))
        self.assertGreater(len(modules), 10)
        for module in modules:
            with self.subTest(module.name):
                text = module.read_text(encoding="utf-8")
                code = compile(text, str(module), "exec", dont_inherit=True)
                self.assertTrue(code.co_consts[0] or "tests" in module.parts)
                self.assertLess(len(text.splitlines()), 400)
                self.assertEqual([line for line in text.splitlines() if len(line) > 140 or line != line.rstrip()], [])
