"""The table of options and its checks."""

import dataclasses
import inspect
import pickle
import typing
from pathlib import Path

import numpy as np
import pytest

import nst_manual
from nst_manual import NSTError, Run, Settings, options
from nst_manual.options import OptionError, kind_of, parse_bytes, parse_duration
from nst_manual.settings import DEFAULTS, help_text, options_of, split_options
from nst_manual.study.gradients import gradients


def test_without_a_preset_the_settings_are_our_own():
    settings = Settings()
    assert settings == Settings(preset="default", style_loss="transport")
    assert (settings.size, settings.style_size, settings.init, settings.scales) == (512, None, "content", "ladder")
    assert set(settings.style_layer_weights()) == {"conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv5_1"}


def test_with_the_spread_loss_only_the_content_s_weight_is_another():
    spread, usual = Settings(style_loss="spread"), Settings()
    assert spread.content_weight < usual.content_weight  # two numbers for each filter hold less against the content
    assert dataclasses.replace(spread, style_loss="transport", content_weight=usual.content_weight) == usual


def test_with_the_gram_loss_our_own_settings_have_the_weights_of_gatys_but_for_the_content_s():
    settings = Settings(style_loss="gram")
    assert (settings.size, settings.style_size, settings.iterations, settings.init) == (512, None, 300, "content")
    assert settings.scales == "auto"
    assert (settings.pooling, settings.optimizer, settings.history, settings.bounds) == ("avg", "auto", 10, True)
    assert settings.content_layer_weights() == {"conv4_2": 1}
    assert settings.style_layer_weights() == dict.fromkeys(["conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv5_1"], 1)
    formula = settings.formula()
    assert (formula.alpha, formula.beta, formula.gamma) == (4, 1e3, 0)
    assert settings.steps()[-1].name == "conv5_1"


def test_strength_divides_the_contents_weight():
    usual, strong, weak = (Settings(strength=strength) for strength in (50, 75, 0.0))
    assert strong.formula().alpha == pytest.approx(usual.content_weight / 10)
    assert weak.formula().alpha == pytest.approx(usual.content_weight * 100)
    assert Settings(preset="paper", strength=100).formula().alpha == pytest.approx(0.01)


def test_a_draft_is_small_and_short_unless_told_otherwise():
    draft, usual = Settings(quick=True), Settings()
    assert draft.size == 256
    assert draft.iterations < usual.iterations
    assert Settings(quick=True, size=300, preset="paper").size == 300


def test_a_scale_of_styles_is_a_number_or_a_list():
    assert Settings(style_scale="0.5") == Settings(style_scale=0.5)
    assert Settings(style_scale=2).style_scales(2) == [2, 2]
    assert Settings(style_scale="2,0.5").style_scales(2) == [2, 0.5]


def test_the_papers_layer_weights_are_one_over_their_number():
    assert Settings(preset="paper").style_layer_weights()["conv1_1"] == 1 / 5
    assert Settings(preset="paper", style_layers="conv1_1,conv2_1").style_layer_weights()["conv2_1"] == 1 / 2


def test_layers_carry_their_own_weights():
    settings = Settings(style_layers="conv1_1:0.5, conv3_1", style_weight=10, content_layers="conv2_2:3")
    assert settings.style_layer_weights() == {"conv1_1": 0.5, "conv3_1": 1}
    assert settings.content_layer_weights() == {"conv2_2": 3}
    assert settings.steps()[-1].name == "conv3_1"


def test_layers_are_named_as_in_other_programs_too():
    settings = Settings(style_layers="conv_1:2,pre:relu3_1,r41", content_layers="pre:block4_conv2:0.5", preset="gatys")
    assert settings.style_layer_weights() == {"conv1_1": 2, "pre:conv3_1": 1, "conv4_1": 1}
    assert settings.content_layer_weights() == {"pre:conv4_2": 0.5}
    assert settings.steps()[-1].name == "pre:conv4_2"


def test_terms_of_weight_zero_are_left_out():
    settings = Settings(content_weight=0, style_layers="conv1_1,conv5_1:0")
    assert settings.content_layer_weights() == {}
    assert settings.style_layer_weights() == {"conv1_1": 1}
    assert settings.steps()[-1].name == "conv1_1"
    assert Settings(content_layers="").content_layer_weights() == {}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"style_layers": "conv9_9"}, r"no layer 'conv9_9': VGG-19 has conv1_1, .*conv5_4"),
        ({"style_layers": "conv1_1,conv1_1"}, "style_layers names conv1_1 twice"),
        ({"style_layers": "conv4_1,pre:conv4_1,conv_9"}, "names conv4_1 twice"),
        ({"content_layers": "pre:conv4_2:much"}, "must give pre:conv4_2 a weight of at least 0, not 'much'"),
        (
            {"content_layers": "pre:conv_17"},
            r"content_layers can't be used: .* no layer 'pre:conv_17'.* conv_10 ",
        ),
        ({"content_layers": "conv4_2:heavy"}, "must give conv4_2 a weight of at least 0, not 'heavy'"),
        ({"content_layers": "conv4_2:-1"}, "at least 0, not '-1'"),
        ({"content_layers": "conv4_2:nan"}, "at least 0, not 'nan'"),
        ({"preset": "picasso"}, r"^preset must be one of default, paper, gatys, johnson, .*, not 'picasso'"),
        ({"preset": 3}, "preset must be one of .*, not 3"),
        ({"pooling": "min"}, "pooling must be one of avg, max, avg-scaled, l2, not 'min'"),
        ({"padding": "mirror"}, "padding must be one of zero, replicate, not 'mirror'"),
        ({"engine": "tpu"}, "engine must be one of auto, cuda, cpu, reference"),
        ({"size": 0}, "size must be a number of at least 1, not 0"),
        ({"size": "64"}, "size must be a whole number or 'original', not '64'"),
        ({"size": 64.5}, "size must be a whole number or 'original', not 64.5"),
        ({"iterations": -1}, "iterations must be a number of at least 0, not -1"),
        ({"iterations": True}, "iterations must be a whole number, not True"),
        ({"bounds": "yes"}, "bounds must be True or False, not 'yes'"),
        ({"weights": 3}, "weights must be a text, not 3"),
        ({"tolerance": None}, "tolerance must be a number, not None"),
        ({"style_weight": float("inf")}, "^style_weight must be"),
        ({"tv_weight": -0.1}, "tv_weight must be"),
        ({"laplacian_weight": -1}, "laplacian_weight must be a number of at least 0"),
        ({"history": 0}, "history must be"),
        ({"optimizer": "sgd"}, "optimizer must be one of auto, l-bfgs-b, lbfgs, adam, not 'sgd'"),
        ({"optimizer": "adan"}, r"not 'adan': did you mean adam\?"),
        ({"learning_rate": 0}, "learning_rate must be a number above 0, not 0"),
        (
            {"scales": "256,half"},
            "scales must be ladder, auto, off, or longer sides in pixels such as 256,512, not '256,half'",
        ),
        ({"scales": "0"}, "scales must be ladder, auto, off, or longer sides"),
        ({"init": "nosie"}, r"init must be one of content, noise, .*, not 'nosie': did you mean noise\?"),
        ({"style_scale": "1,0"}, "style_scale must be a number above 0, not 0"),
        ({"style_scale": "1;2"}, "style_scale must be numbers separated by commas, such as 2,1, not '1;2'"),
        ({"style_scale": None}, "style_scale must be numbers"),
        ({"style_blend": "2;1"}, "style_blend must be numbers separated by commas, such as 2,1, not '2;1'"),
        ({"content_layers": "", "style_layers": ""}, "every layer's weight is 0"),
        ({"content_weight": 0, "style_weight": 0}, "every layer's weight is 0"),
    ],
)
def test_a_wrong_option_is_told_in_one_sentence(options, sentence):
    with pytest.raises(NSTError, match=sentence) as error:
        Settings(**options)
    assert "\n" not in str(error.value)


def test_a_preset_sets_what_is_not_given():
    settings = Settings(preset="johnson", iterations=7, content_weight=None)
    assert (settings.iterations, settings.init, settings.pooling, settings.history) == (7, "noise", "max", 100)
    assert (settings.content_weight, settings.style_weight, settings.tv_weight) == (5, 100, 1e-3)
    assert Settings(preset="keras").content_layer_weights() == {"conv5_2": 1}
    assert Settings(preset="keras", content_layers="conv1_1").content_layer_weights() == {"conv1_1": 1}
    assert Settings(preset="pytorch-tutorial").steps()[-1].name == "pre:conv3_1"
    assert Settings(preset="eecs498").style_layer_weights() == {
        "conv2_1": 20000,
        "conv3_2": 500,
        "conv4_1": 12,
        "conv4_2": 1,
    }


def test_none_stands_for_the_preset_unless_it_is_a_value():
    assert Settings(iterations=None, tv_weight=None) == Settings()
    assert Settings(preset="eecs498", size=None, style_size=None).style_size is None
    assert Settings(preset="eecs498", size="original", style_size="same") == Settings(
        preset="eecs498", size=None, style_size=None
    )


def test_settings_are_frozen_and_every_option_has_a_help_text():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().size = 3
    assert all(field.metadata["help"] for field in options_of().values())


def test_numpys_numbers_and_paths_of_any_kind_are_taken():
    settings = Settings(size=np.int64(64), style_weight=np.float32(2))
    assert (settings.size, type(settings.size), settings.style_weight) == (64, int, 2.0)
    assert Run(trace="a.csv").trace == Run(trace=Path("a.csv")).trace == Path("a.csv")


def test_an_error_names_the_option_as_python_does_and_as_the_command_line_does():
    error = pickle.loads(pickle.dumps(OptionError("style_weight", "must be a number, not 'x'")))
    assert str(error) == "style_weight must be a number, not 'x'"
    assert error.as_flag() == "--style-weight must be a number, not 'x'"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), (" 90s ", 90), ("5min", 300), ("10m", 600), ("1.5h", 5400), ("1.5 H", 5400), ("1e2s", 100), ("0", 0)],
)
def test_durations(text, seconds):
    assert parse_duration(text, "time_limit") == seconds


@pytest.mark.parametrize(
    ("text", "count"),
    [("10", 10), ("800M", 800 << 20), ("4G", 4 << 30), ("4gb", 4 << 30), ("1.5 GiB", 3 << 29)],
)
def test_amounts_of_memory(text, count):
    assert parse_bytes(text, "max_memory") == count


@pytest.mark.parametrize("text", ["Lots", "-1s", "5 Minutes", "", "nan", "inf", "s"])
def test_a_time_or_an_amount_that_cannot_be_read_is_told_as_it_was_typed(text):
    for name, expected in (("time_limit", "a time such as"), ("max_memory", "an amount of memory such as")):
        with pytest.raises(OptionError) as error:
            Run(**{name: text})
        assert str(error.value).startswith(f"{name} must be {expected}")
        assert str(error.value).endswith(f"not {text!r}")


FUNCTIONS = {  # of each command, with the types of its options
    "transfer": (nst_manual.transfer, options.TransferOptions),
    "reconstruct": (nst_manual.reconstruct, options.ReconstructOptions),
    "texture": (nst_manual.texture, options.TextureOptions),
    "batch": (nst_manual.transfer_many, options.BatchOptions),
    "figure": (nst_manual.figure, options.FigureOptions),
    "gradient": (gradients, options.GradientOptions),
    "evaluate": (nst_manual.evaluate, options.EvaluateOptions),
    "style-targets": (nst_manual.compute_targets, options.StyleTargetsOptions),
}


def keyword_type(field):
    """What may be given for an option in Python."""
    kind, optional = kind_of(field)
    kind = options.FilePath if kind is Path else kind
    if field.metadata["word"] or field.metadata["parse"]:
        kind |= str
    return kind | None if optional else kind


@pytest.mark.parametrize("command", FUNCTIONS)
def test_the_types_of_the_keyword_arguments_are_those_of_the_table(command):
    function, types = FUNCTIONS[command]
    assert typing.get_type_hints(types) == {name: keyword_type(field) for name, field in options_of(command).items()}
    parameters = inspect.signature(function).parameters
    assert parameters["options"].annotation == typing.Unpack[types]


@pytest.mark.parametrize("command", FUNCTIONS)
def test_help_lists_every_option_with_its_default(command):
    text = inspect.getdoc(FUNCTIONS[command][0])
    words = " ".join(text.split())
    for name, field in options_of(command).items():
        assert f" {name}: {help_text(field, DEFAULTS.get(command, {}))}" in words
    assert "optimizer" not in options_of(command) or "(default: auto, or the preset's)" in words


def test_a_misspelt_keyword_argument_is_told_with_the_nearest_one():
    with pytest.raises(TypeError, match=r"there is no option 'iteration': did you mean iterations\?"):
        nst_manual.transfer("a.png", "b.png", iteration=3)
    with pytest.raises(TypeError, match="there is no option 'zzz': there are animation, bits"):
        split_options({"zzz": 1})
    with pytest.raises(TypeError, match="there is no option 'style_weight'"):
        nst_manual.reconstruct("a.png", style_weight=3)
