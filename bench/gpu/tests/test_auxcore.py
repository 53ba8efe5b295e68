import ctypes
import pathlib
import re
import unittest

import auxcore
import auxcore_tokens
from auxcore import AdamWTensors, EmaTensors

HEADER = pathlib.Path(__file__).parents[3] / "native/cuda/include/auxcore.h"


class HeaderTests(unittest.TestCase):
    """The binding against the header, which is the ABI."""

    @classmethod
    def setUpClass(cls):
        cls.text = re.sub(r"/\*.*?\*/", "", HEADER.read_text(encoding="utf-8"), flags=re.DOTALL)
        found = re.findall(r"AUXCORE_API\s+([\w\s*]+?)\s*(auxcore_\w+)\(([^)]*)\)", cls.text)
        cls.functions = {name: (result, [] if arguments.strip() == "void" else arguments.split(",")) for result, name, arguments in found}

    def test_the_header_was_understood(self):
        self.assertEqual(len(self.functions), self.text.count("AUXCORE_API ") - self.text.count("define AUXCORE_API "))

    def test_bound_functions_take_what_the_header_says(self):
        missing = set(auxcore.FUNCTIONS) - set(self.functions)
        self.assertEqual(missing, set())
        for name, bound in auxcore.FUNCTIONS.items():
            result, arguments = self.functions[name]
            with self.subTest(name):
                self.assertEqual([kind_of_type(a) for a in bound], [kind_of_text(a) for a in arguments])
                self.assertEqual(result == "auxcore_status", name not in auxcore.RESULTS)

    def test_numbers_are_the_headers(self):
        codes = re.findall(r"(AUXCORE_E_\w+|AUXCORE_OK) = (-?\d+)", self.text)
        self.assertEqual(auxcore.STATUS, {name: int(value) for name, value in codes})
        types = {name.lower(): int(value) for name, value in re.findall(r"AUXCORE_((?:B?FLOAT)\d+) = (\d+)", self.text)}
        self.assertEqual(auxcore.DTYPES, types)
        self.assertIn(f"#define AUXCORE_ABI_VERSION {auxcore.ABI_VERSION}u", self.text)

    def test_structs_have_the_headers_fields(self):
        for struct, name in (
                (auxcore.Device, "auxcore_device"), (auxcore.EmaTensorsStruct, "auxcore_ema_tensors"),
                (auxcore.AdamWSettings, "auxcore_adamw_settings"), (auxcore.AdamWTensorsStruct, "auxcore_adamw_tensors"),
                (auxcore.KvElements, "auxcore_kv_elements"), (auxcore.KvPlane, "auxcore_kv_plane"),
                (auxcore.KvCache, "auxcore_kv_cache"), (auxcore.KvAttention, "auxcore_kv_attention"),
                *((struct, name) for name, struct in auxcore_tokens.STRUCTURES.items())):
            body = re.search(rf"typedef struct {name} {{(.*?)}} {name};", self.text, re.DOTALL).group(1)
            fields = re.findall(r"(\w+)(?:\[\d+\])?;", body)
            self.assertEqual([field for field, _ in struct._fields_], fields)


def kind_of_text(argument):
    """pointer, or the bytes of a number."""
    if "*" in argument:
        return "pointer"
    sizes = {
        "auxcore_context": 8, "auxcore_ema_table": 8, "auxcore_adamw_table": 8, "uint64_t": 8, "int64_t": 8, "int32_t": 4, "uint32_t": 4,
        "uint8_t": 1}
    return sizes[argument.replace("const", "").split()[0]]


def kind_of_type(bound):
    return "pointer" if bound is ctypes.c_void_p or issubclass(bound, ctypes._Pointer) else ctypes.sizeof(bound)


class EmaTensorsTests(unittest.TestCase):
    def test_rows_become_the_arrays_of_the_abi(self):
        struct = EmaTensors([(1, [2, 3], 10, "float32"), (4, [5, 6], 20, "bfloat16")]).struct
        self.assertEqual((struct.struct_size, struct.average_type, struct.tensor_count), (40, 0, 2))
        self.assertEqual(struct.addresses[:6], [1, 2, 3, 4, 5, 6])
        self.assertEqual(struct.element_counts[:2], [10, 20])
        self.assertEqual(struct.source_types[:2], [0, 3])

    def test_uneven_rows_are_refused(self):
        with self.assertRaisesRegex(ValueError, "equally many"):
            EmaTensors([(1, [2], 1, "float32"), (1, [2, 3], 1, "float32")])


class AdamWTensorsTests(unittest.TestCase):
    def test_rows_become_the_arrays_of_the_abi(self):
        struct = AdamWTensors([(10, 1, 2, 3, 4, 5), (20, 6, 7, 8, 9, 10)]).struct
        self.assertEqual((struct.struct_size, struct.reserved, struct.tensor_count), (56, 0, 2))
        self.assertEqual(struct.addresses[:12], [1, 0, 2, 3, 4, 5, 6, 0, 7, 8, 9, 10])  # 0: no master
        self.assertEqual(struct.element_counts[:2], [10, 20])
        self.assertEqual([struct.parameter_types[1], struct.gradient_types[1], struct.settings_of[1]], [0, 0, 0])
