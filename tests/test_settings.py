"""The table of options and its checks."""

import dataclasses

import pytest

from nst_manual import NSTError, Settings


def test_without_a_preset_the_settings_are_our_own_with_the_weights_of_gatys():
    settings = Settings()
    assert settings == Settings(preset="default")
    assert (settings.size, settings.style_size, settings.iterations, settings.init) == (512, None, 300, "content")
    assert (settings.pooling, settings.optimizer, settings.history, settings.bounds) == ("avg", "l-bfgs-b", 10, True)
    assert settings.content_layer_weights() == {"conv4_2": 1}
    assert settings.style_layer_weights() == dict.fromkeys(["conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv5_1"], 1e3)
    assert settings.tv_factor() == 0
    assert settings.steps()[-1].name == "conv5_1"


def test_the_papers_layer_weights_are_one_over_their_number():
    assert Settings(preset="paper").style_layer_weights()["conv1_1"] == 1e3 / 5
    assert Settings(preset="paper", style_layers="conv1_1,conv2_1").style_layer_weights()["conv2_1"] == 1e3 / 2


def test_layers_carry_their_own_weights():
    settings = Settings(style_layers="conv1_1:0.5, conv3_1", style_weight=10, content_layers="conv2_2:3")
    assert settings.style_layer_weights() == {"conv1_1": 5, "conv3_1": 10}
    assert settings.content_layer_weights() == {"conv2_2": 3}
    assert settings.steps()[-1].name == "conv3_1"


def test_layers_are_named_as_in_other_programs_too():
    settings = Settings(style_layers="conv_1:2,pre:relu3_1,r41", content_layers="pre:block4_conv2:0.5", preset="gatys")
    assert settings.style_layer_weights() == {"conv1_1": 2e3, "pre:conv3_1": 1e3, "conv4_1": 1e3}
    assert settings.content_layer_weights() == {"pre:conv4_2": 0.5}
    assert settings.steps()[-1].name == "pre:conv4_2"


def test_terms_of_weight_zero_are_left_out():
    settings = Settings(content_weight=0, style_layers="conv1_1,conv5_1:0")
    assert settings.content_layer_weights() == {}
    assert settings.style_layer_weights() == {"conv1_1": 1e3}
    assert settings.steps()[-1].name == "conv1_1"
    assert Settings(content_layers="").content_layer_weights() == {}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"style_layers": "conv9_9"}, r"no layer 'conv9_9': VGG-19 has conv1_1, .*conv5_4"),
        ({"style_layers": "conv1_1,conv1_1"}, "conv1_1 is given twice"),
        ({"style_layers": "conv4_1,pre:conv4_1,conv_9"}, "conv4_1 is given twice"),
        ({"content_layers": "pre:conv4_2:much"}, "weight of pre:conv4_2 must be a number of at least 0, not 'much'"),
        ({"content_layers": "pre:conv_17"}, r"--content-layers: there is no layer 'pre:conv_17'.* conv_10 "),
        ({"content_layers": "conv4_2:heavy"}, "weight of conv4_2 must be a number of at least 0, not 'heavy'"),
        ({"content_layers": "conv4_2:-1"}, "at least 0, not '-1'"),
        ({"content_layers": "conv4_2:nan"}, "at least 0, not 'nan'"),
        ({"preset": "picasso"}, r"--preset must be one of default, paper, gatys, johnson, .*eecs498, not 'picasso'"),
        ({"pooling": "min"}, "--pooling must be one of avg, max"),
        ({"engine": "tpu"}, "--engine must be one of auto, cuda, cpu, reference"),
        ({"size": 0}, "--size must be a number of at least 1, not 0"),
        ({"iterations": -1}, "--iterations must be a number of at least 0, not -1"),
        ({"style_weight": float("inf")}, "--style-weight must be"),
        ({"tv_weight": -0.1}, "--tv-weight must be"),
        ({"history": 0}, "--history must be"),
        ({"optimizer": "sgd"}, "--optimizer must be one of l-bfgs-b, lbfgs, adam, not 'sgd'"),
        ({"learning_rate": 0}, "--learning-rate must be a number above 0, not 0"),
        ({"averaging": 1}, "--averaging must be a number of at least 0 and below 1, not 1"),
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
    assert Settings(preset="keras").content_layer_weights() == {"conv5_2": 2.5e-8}
    assert Settings(preset="keras", content_layers="conv1_1").content_layer_weights() == {"conv1_1": 2.5e-8}
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
    assert all(field.metadata["help"] for field in dataclasses.fields(Settings))
